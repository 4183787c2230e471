// SPDX-License-Identifier: Apache-2.0
package kafkaproc.bench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;

/** JSON → function → JSON on Kafka Streams: one stream thread, at least once, commits each second. */
public final class JsonMap {
    private static final ObjectMapper MAPPER = new ObjectMapper();
    private static final OperatingSystemMXBean SYSTEM =
            (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    private final long count;
    private final CountDownLatch finished = new CountDownLatch(1);
    private long records; // of the one stream thread
    private long started;
    private long cpuStarted;

    private JsonMap(long count) {
        this.count = count;
    }

    private JsonNode enrich(JsonNode order) {
        if (records == 0) {
            started = System.nanoTime();
            cpuStarted = SYSTEM.getProcessCpuTime();
        }
        if (++records == count) {
            finished.countDown();
        }
        return ((ObjectNode) order).put("vat", order.get("total").doubleValue() * 0.25);
    }

    private static JsonNode read(byte[] bytes) {
        try {
            return bytes == null ? null : MAPPER.readTree(bytes);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private static byte[] write(JsonNode node) {
        try {
            return node == null ? null : MAPPER.writeValueAsBytes(node);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private void run(Map<String, String> options) throws Exception {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, options.get("group"));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, options.get("bootstrap"));
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.AT_LEAST_ONCE);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
        Path state = Files.createTempDirectory("kafka-streams-peer"); // has no stores, but wants a folder
        settings.put(StreamsConfig.STATE_DIR_CONFIG, state.toString());
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");

        Serde<JsonNode> json = Serdes.serdeFrom((topic, node) -> write(node), (topic, bytes) -> read(bytes));
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(options.get("input"), Consumed.with(Serdes.ByteArray(), json))
                .mapValues(this::enrich)
                .to(options.get("output"), Produced.with(Serdes.ByteArray(), json));

        try (KafkaStreams streams = new KafkaStreams(builder.build(), settings)) {
            streams.start();
            finished.await();
            streams.close(); // commits, and so waits for the last acknowledgement
            streams.cleanUp();
        }
        Files.deleteIfExists(state);
        double seconds = (System.nanoTime() - started) / 1e9;
        double cpuSeconds = (SYSTEM.getProcessCpuTime() - cpuStarted) / 1e9;
        System.out.printf(
                "{\"peer\": \"kafka_streams\", \"records\": %d, \"seconds\": %.3f, \"cpu_seconds\": %.3f, "
                        + "\"records_per_s\": %.0f, \"cpu_us_per_record\": %.2f}%n",
                records, seconds, cpuSeconds, records / seconds, cpuSeconds / records * 1e6);
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = new HashMap<>();
        for (int i = 0; i + 1 < arguments.length; i += 2) {
            options.put(arguments[i].replaceFirst("^--", ""), arguments[i + 1]);
        }
        new JsonMap(Long.parseLong(options.get("count"))).run(options);
    }
}
