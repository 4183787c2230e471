// SPDX-License-Identifier: Apache-2.0
package kafkaproc.bench;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.sun.management.OperatingSystemMXBean;
import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import io.confluent.parallelconsumer.PollContext;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import java.util.function.LongSupplier;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * JSON → a slow call on a thread of its own → JSON on Confluent's Parallel Consumer, ordered by key.
 *
 * <p>{@code --call} is as in {@link CallLength}; {@code --in-flight} calls run at a time; {@code --commit-ms} apart it
 * commits: with {@code --mode transactional} the outputs and their offsets, with {@code --mode plain} the offsets only.
 * All else is left as Parallel Consumer sets it.
 */
public final class KeyedCalls {
    private static final ObjectMapper MAPPER = new ObjectMapper();
    private static final OperatingSystemMXBean SYSTEM =
            (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    private final Map<String, String> options;
    private final LongSupplier callLength;
    private final AtomicLong startedCount = new AtomicLong();
    private final CountDownLatch unfinished;
    private volatile long started;
    private volatile long cpuStarted;

    private KeyedCalls(Map<String, String> options) {
        this.options = options;
        callLength = CallLength.parse(options.get("call"));
        unfinished = new CountDownLatch(Integer.parseInt(options.get("count")));
    }

    private ProducerRecord<byte[], byte[]> process(PollContext<byte[], byte[]> context) {
        if (startedCount.getAndIncrement() == 0) {
            started = System.nanoTime();
            cpuStarted = SYSTEM.getProcessCpuTime();
        }
        ConsumerRecord<byte[], byte[]> record = context.getSingleConsumerRecord();
        try {
            ObjectNode order = (ObjectNode) MAPPER.readTree(record.value());
            call(order);
            byte[] value = MAPPER.writeValueAsBytes(order);
            return new ProducerRecord<>(options.get("output"), null, record.timestamp(), record.key(), value);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private void call(ObjectNode order) {
        long begun = System.nanoTime();
        long end = begun + callLength.getAsLong();
        long now = begun;
        while (now < end) { // parking may end early
            LockSupport.parkNanos(end - now);
            now = System.nanoTime();
            if (Thread.interrupted()) {
                throw new IllegalStateException("interrupted in a call: closed before its end");
            }
        }
        order.put("started_ns", begun).put("ended_ns", now);
    }

    private ParallelStreamProcessor<byte[], byte[]> processor() {
        boolean transactional = options.get("mode").equals("transactional");
        Properties reading = new Properties();
        reading.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, options.get("bootstrap"));
        reading.put(ConsumerConfig.GROUP_ID_CONFIG, options.get("group"));
        reading.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        reading.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        Properties writing = new Properties();
        writing.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, options.get("bootstrap"));
        if (transactional) {
            reading.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
            writing.put(ProducerConfig.TRANSACTIONAL_ID_CONFIG, options.get("group"));
        }
        return ParallelStreamProcessor.createEosStreamProcessor(ParallelConsumerOptions.<byte[], byte[]>builder()
                .consumer(new KafkaConsumer<>(reading, new ByteArrayDeserializer(), new ByteArrayDeserializer()))
                .producer(new KafkaProducer<>(writing, new ByteArraySerializer(), new ByteArraySerializer()))
                .ordering(ProcessingOrder.KEY)
                .maxConcurrency(Integer.parseInt(options.get("in-flight")))
                .commitMode(transactional
                        ? CommitMode.PERIODIC_TRANSACTIONAL_PRODUCER
                        : CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
                .commitInterval(Duration.ofMillis(Long.parseLong(options.get("commit-ms"))))
                .build());
    }

    private void run() throws InterruptedException {
        long count = unfinished.getCount();
        ParallelStreamProcessor<byte[], byte[]> processor = processor();
        processor.subscribe(List.of(options.get("input")));
        processor.pollAndProduce(this::process, acknowledged -> unfinished.countDown());
        unfinished.await();
        double seconds = (System.nanoTime() - started) / 1e9;
        double cpuSeconds = (SYSTEM.getProcessCpuTime() - cpuStarted) / 1e9;
        processor.close(); // commits what is left
        System.out.printf(
                "{\"peer\": \"parallel_consumer\", \"records\": %d, \"seconds\": %.3f, \"cpu_seconds\": %.3f, "
                        + "\"records_per_s\": %.0f, \"cpu_us_per_record\": %.2f}%n",
                count, seconds, cpuSeconds, count / seconds, cpuSeconds / count * 1e6);
    }

    public static void main(String[] arguments) throws InterruptedException {
        Map<String, String> options =
                new HashMap<>(Map.of("call", "10", "in-flight", "1000", "commit-ms", "100", "mode", "transactional"));
        for (int i = 0; i + 1 < arguments.length; i += 2) {
            options.put(arguments[i].replaceFirst("^--", ""), arguments[i + 1]);
        }
        new KeyedCalls(options).run();
    }
}
