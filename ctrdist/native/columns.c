/* Moves columns of 4-byte values: joins slices of them into batches, brings them into another
 * order. Python's part of that costs more than the moving, for a batch of 40 columns from 16
 * places. */
#include <stdint.h>
#include <string.h>

/* The rows begins[p] … begins[p] + lengths[p] - 1 of each part p, one part after the other.
 * columns: (P, n), where each part's columns begin; out: (n, B) with B the sum of lengths. */
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

/* Row order[i] comes to place i, in each of n columns; out: (n, W). */
void ctrdist_permute(const uint32_t *const *columns, const int32_t *order, int64_t W, int64_t n,
                     uint32_t *out)
{
    enum { LINE = 16 }; /* values of a cache line */
    for (int64_t c = 0; c < n; c++) { /* column after column: each fits the cache */
        const uint32_t *from = columns[c];
        /* first once in order, which the processor foresees: random reads then find it there */
        uint32_t touched = 0;
        for (int64_t i = 0; i < W; i += LINE) touched += from[i];
        __asm__ volatile("" ::"r"(touched));
        for (int64_t i = 0; i < W; i++) out[i] = from[order[i]];
        out += W;
    }
}
