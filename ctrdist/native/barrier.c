/* A barrier between the workers of one Linux machine: a counter for each, in memory that all have
 * mapped. */
#define _GNU_SOURCE
#include <limits.h>
#include <stdatomic.h>
#include <stdint.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PER_LINE = 16, SPINS = 20000 }; /* each counter has a cache line of its own */

/* Counts this worker's arrival at its next barrier, and returns the barrier's number. */
uint32_t ctrdist_arrive(_Atomic uint32_t *counters, int64_t worker)
{
    _Atomic uint32_t *own = counters + worker * PER_LINE;
    const uint32_t barrier = atomic_load_explicit(own, memory_order_relaxed) + 1;
    atomic_store_explicit(own, barrier, memory_order_release);
    syscall(SYS_futex, own, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    return barrier;
}

/* Waits until all workers have arrived at a barrier. Returns -1, or a worker that has not arrived
 * after about wait_ms milliseconds. */
int64_t ctrdist_await_all(_Atomic uint32_t *counters, int64_t workers, uint32_t barrier,
                          int64_t wait_ms)
{
    struct timespec begun, now;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (int64_t w = 0; w < workers; w++) {
        _Atomic uint32_t *other = counters + w * PER_LINE;
        for (int64_t spins = 0;; spins++) {
            const uint32_t seen = atomic_load_explicit(other, memory_order_acquire);
            if ((int32_t)(seen - barrier) >= 0) break;
            if (spins < SPINS) {
#if defined(__x86_64__)
                __builtin_ia32_pause();
#endif
                continue;
            }
            struct timespec slice = {0, 20 * 1000 * 1000};
            syscall(SYS_futex, other, FUTEX_WAIT, seen, &slice, NULL, 0);
            clock_gettime(CLOCK_MONOTONIC, &now);
            if ((now.tv_sec - begun.tv_sec) * 1000 + (now.tv_nsec - begun.tv_nsec) / 1000000 >
                wait_ms)
                return w;
        }
    }
    return -1;
}
