// SPDX-License-Identifier: Apache-2.0
package kafkaproc.bench;

import java.util.Random;
import java.util.function.LongSupplier;

/** How long each call takes, as bench/macro/apps/call.py reads it: `100` (ms), or `lognormal:50:500` (median, p99). */
final class CallLength {
    private static final double Z_99 = 2.3263478740408408; // 99th percentile of the standard normal distribution

    private CallLength() {}

    /** Draws lengths in nanoseconds, from a fixed seed; safe to use from many threads. */
    static LongSupplier parse(String text) {
        if (!text.startsWith("lognormal:")) {
            long nanos = nanos(Double.parseDouble(text));
            return () -> nanos;
        }
        String[] parts = text.split(":");
        double median = Double.parseDouble(parts[1]);
        double high = Double.parseDouble(parts[2]);
        double sigma = Math.log(high / median) / Z_99;
        Random source = new Random(0);
        return () -> nanos(median * Math.exp(sigma * source.nextGaussian()));
    }

    private static long nanos(double millis) {
        return Math.round(millis * 1e6);
    }
}
