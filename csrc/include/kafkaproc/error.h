/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What went wrong, written into memory of the caller: the library has no globals, thread-local ones included, because one
 * of its sources may be compiled into several extensions.
 *
 * Only operating errors come this way. An expected outcome (full, empty, not published yet) is a return value. A
 * programmer's error is an assertion, or kp_require where the release build must not go on either.
 */
#ifndef KAFKAPROC_ERROR_H
#define KAFKAPROC_ERROR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum kp_error_code {
    KP_ERROR_NONE = 0,
    KP_ERROR_SYSTEM = 1,   /* a system call failed: system_errno says how */
    KP_ERROR_ARGUMENT = 2, /* a size or count outside what the layout allows */
    KP_ERROR_LAYOUT = 3    /* the memory is not what this build writes: other magic, version or sizes */
};

struct kp_error {
    int32_t code;         /* enum kp_error_code */
    int32_t system_errno; /* 0 unless code is KP_ERROR_SYSTEM */
    char message[248];    /* one sentence, always terminated */
};

/* Fills `error`, which may be NULL, and returns -1 so that a caller can write `return kp_error_set(...)`. */
static inline int kp_error_set(struct kp_error *error, enum kp_error_code code, int system_errno, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static inline int kp_error_set(struct kp_error *error, enum kp_error_code code, int system_errno, const char *format, ...)
{
    if (error != NULL) {
        va_list arguments;
        error->code = (int32_t)code;
        error->system_errno = (int32_t)system_errno;
        va_start(arguments, format);
        (void)vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
    }
    return -1;
}

/* Ends the process where going on would write outside of its slot: better no commit than one of somebody else's offset. */
static inline void kp_require(bool promise, const char *text)
{
    if (!promise) {
        (void)fprintf(stderr, "kafkaproc: broken promise: %s\n", text);
        abort();
    }
}

#endif
