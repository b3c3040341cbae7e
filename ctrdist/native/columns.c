/* Brings columns of 4-byte values into another order. */
#include <stdint.h>

/* Row order[i] becomes row i, in each of n columns; out: (n, W). */
void ctrdist_permute(const uint32_t *const *columns, const int32_t *order, int64_t W, int64_t n,
                     uint32_t *out)
{
    enum { LINE = 16 }; /* values of a cache line */
    for (int64_t c = 0; c < n; c++) { /* column after column: each fits the cache */
        const uint32_t *from = columns[c];
        /* first read in order, which the processor prefetches: random reads then hit the cache */
        uint32_t touched = 0;
        for (int64_t i = 0; i < W; i += LINE) touched += from[i];
        __asm__ volatile("" ::"r"(touched));
        for (int64_t i = 0; i < W; i++) out[i] = from[order[i]];
        out += W;
    }
}
