/* SPDX-License-Identifier: Apache-2.0 */
/* The reader's half of the in-flight table: see the header for the protocol. */
#include "kafkaproc/in_flight.h"

#define READ_ATTEMPTS 100

enum kp_in_flight_read kp_in_flight_read(const struct kp_in_flight_slot *slot, struct kp_in_flight *event)
{
    for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
        /* Pairs with the release of SET in kp_in_flight_set. */
        const uint64_t version = kp_load_acquire_u64(&slot->version);
        if ((version & 3) != KP_IN_FLIGHT_SET) {
            return KP_IN_FLIGHT_READ_FREE;
        }
        uint64_t words[KP_IN_FLIGHT_WORDS];
        for (size_t i = 0; i < KP_IN_FLIGHT_WORDS; i++) {
            /* Pairs with the release in kp_in_flight_set: a later use's word comes with a later version. */
            words[i] = kp_load_acquire_u64(&slot->words[i]);
        }
        if (kp_load_acquire_u64(&slot->version) == version) {
            memcpy(event, words, sizeof *event);
            return KP_IN_FLIGHT_READ_OK;
        }
    }
    return KP_IN_FLIGHT_READ_BUSY;
}
