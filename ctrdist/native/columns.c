/* Moves columns of 4-byte values: joins slices of them into batches, brings them into another
 * order. For a batch of 40 columns from 16 parts, calls from Python cost more than the copying. */
#include <stdint.h>
#include <string.h>

/* Joins rows begins[p] … begins[p] + lengths[p] - 1 of the parts p, one part after the other.
 * columns: (P, n), addresses of the parts' columns; out: (n, B) with B the sum of lengths. */
void ctrdist_join(const uint32_t *const *columns, const int64_t *begins, const int64_t *lengths,
                  int64_t P, int64_t n, uint32_t *out)
{
    for (int64_t c = 0; c < n; c++)
        for (int64_t p = 0; p < P; p++) {
            memcpy(out, columns[p * n + c] + begins[p], (size_t)lengths[p] * sizeof(uint32_t));
            out += lengths[p];
        }
}

/* The same with rows and columns exchanged; out: (B, n). */
void ctrdist_join_rows(const uint32_t *const *columns, const int64_t *begins,
                       const int64_t *lengths, int64_t P, int64_t n, uint32_t *out)
{
    enum { BLOCK = 64 }; /* rows that stay in the cache while their columns come */
    for (int64_t p = 0; p < P; p++)
        for (int64_t done = 0; done < lengths[p]; done += BLOCK) {
            const int64_t rows = lengths[p] - done < BLOCK ? lengths[p] - done : BLOCK;
            for (int64_t c = 0; c < n; c++) {
                const uint32_t *from = columns[p * n + c] + begins[p] + done;
                for (int64_t i = 0; i < rows; i++) out[i * n + c] = from[i];
            }
            out += rows * n;
        }
}

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
