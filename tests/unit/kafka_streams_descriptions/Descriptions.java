// SPDX-License-Identifier: Apache-2.0
//
// Prints what Kafka Streams' own describe() says of the topologies that ../test_description.py builds too, one block each.
// descriptions.txt is its output; to make it anew, with kafka-streams, kafka-clients and slf4j-api in libs/:
//
//     java -cp 'libs/*' Descriptions.java > descriptions.txt

import org.apache.kafka.streams.*;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.processor.api.*;
import java.util.*;
import java.util.regex.Pattern;

public class Descriptions {
    static void show(String title, StreamsBuilder b) {
        System.out.println("=== " + title);
        System.out.print(b.build().describe());
    }
    static class P implements Processor<String,String,String,String> { public void process(org.apache.kafka.streams.processor.api.Record<String,String> r) {} }
    static class FP implements FixedKeyProcessor<String,String,String> { public void process(FixedKeyRecord<String,String> r) {} }
    public static void main(String[] a) {
        StreamsBuilder b = new StreamsBuilder();
        b.<String,String>stream("in").mapValues(v -> v).filter((k, v) -> true).to("out");
        show("linear", b);

        b = new StreamsBuilder();
        KStream<String,String> s = b.stream("in");
        s.map((k, v) -> KeyValue.pair(k, v)).flatMap((k, v) -> List.of(KeyValue.pair(k, v))).flatMapValues(v -> List.of(v))
         .filterNot((k, v) -> true).selectKey((k, v) -> v).peek((k, v) -> {}).foreach((k, v) -> {});
        show("operators", b);

        b = new StreamsBuilder();
        Map<String, KStream<String,String>> m = b.<String,String>stream("in").split()
            .branch((k, v) -> true).branch((k, v) -> true).defaultBranch();
        for (String k : new TreeSet<>(m.keySet())) m.get(k).to("out-" + k.charAt(k.length() - 1));
        show("split", b);

        b = new StreamsBuilder();
        m = b.<String,String>stream("in").split(Named.as("kind-"))
            .branch((k, v) -> true, Branched.as("a")).branch((k, v) -> true, Branched.as("b")).noDefaultBranch();
        m.get("kind-a").mapValues(v -> v).to("out-a");
        m.get("kind-b").to("out-b");
        show("named-split", b);

        b = new StreamsBuilder();
        KStream<String,String> x = b.stream("x"); KStream<String,String> y = b.stream("y");
        x.merge(y).to("out");
        show("merge", b);

        b = new StreamsBuilder();
        b.<String,String>stream("a").to("b"); b.<String,String>stream("b").mapValues(v -> v).to("c");
        show("two-subtopologies", b);

        b = new StreamsBuilder();
        KStream<String,String> p = b.stream("a"); KStream<String,String> q = b.stream("b"); KStream<String,String> r = b.stream("c");
        p.to("pa"); q.to("qa"); r.merge(p).to("ra");
        show("numbering", b);

        b = new StreamsBuilder();
        b.<String,String>stream("a").to("b"); b.<String,String>stream("a").mapValues(v -> v).to("c");
        show("same-topic-twice", b);

        b = new StreamsBuilder();
        b.<String,String>stream(Pattern.compile("in-.*")).process(P::new).to("out");
        show("pattern-process", b);

        b = new StreamsBuilder();
        b.<String,String>stream("in", Consumed.as("source")).processValues(FP::new).mapValues(v -> v, Named.as("score"))
          .to("out", Produced.as("sink"));
        show("named", b);

        b = new StreamsBuilder();
        b.<String,String>stream("in", Consumed.as("source")).process(P::new, Named.as("proc")).filter((k, v) -> true).to("out");
        show("named-process", b);

        b = new StreamsBuilder();
        b.<String,String>stream(List.of("t1", "t2", "t3")).to("out");
        show("several-topics", b);

        b = new StreamsBuilder();
        KStream<String,String> d = b.stream("in");
        KStream<String,String> left = d.filter((k, v) -> true); KStream<String,String> right = d.mapValues(v -> v).peek((k, v) -> {});
        left.merge(right).to("out"); right.to("right");
        show("diamond", b);

        b = new StreamsBuilder();
        b.<String,String>stream("lonely");
        show("lonely", b);

        b = new StreamsBuilder();
        b.<String,String>stream("a").merge(b.stream("b")).mapValues(v -> v).split(Named.as("s-")).branch((k, v) -> true, Branched.as("one")).defaultBranch(Branched.as("rest")).get("s-one").to("o");
        show("everything", b);

        b = new StreamsBuilder();
        KStream<String,String> wide = b.stream(List.of("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta",
            "iota", "kappa", "lambda", "mu", "nu", "xi", "omicron"));
        KStream<String,String> all = null;
        for (int width = 0; width < 12; width++) {
            KStream<String,String> each = wide;
            for (int depth = 0; depth < 1 + width * 5 % 4; depth++) each = depth % 2 == 0 ? each.mapValues(v -> v) : each.filter((k, v) -> true);
            if (width % 3 == 0) each.to("side-" + width);
            all = all == null ? each : width % 2 == 0 ? all.merge(each) : each.merge(all);
        }
        all.to("all");
        show("wide", b);
    }
}
