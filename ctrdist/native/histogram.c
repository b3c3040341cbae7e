/* Counts of ids and of binned numbers by group of rows: one pass over a column, without the GIL. */

#include <math.h>
#include <stdint.h>
#include <string.h>

/* The bin of a number, towards zero: 0 up to 2^lowest, then 2^bits bins per power of two. */
static inline int64_t bin_of(double x, int shift, int64_t base, int64_t most) {
    uint64_t b;
    memcpy(&b, &x, sizeof b);
    int64_t k = (int64_t)((b & 0x7fffffffffffffffULL) >> shift) - base + 1;
    k = k < 0 ? 0 : k;
    k = k > most ? most : k;
    return b >> 63 ? -k : k;
}

/* Counts by bin and group, then hands over the bins that hold something and clears the table.
   group: of each row, or NULL where there is one group. NaN goes to missing, (groups).
   table: (2 * most + 1, groups) of zeros. stats: sum, least and greatest so far; added to.
   bins: (2 * most + 1) and counts: (2 * most + 1, groups) take the result; returns its length. */
int64_t ctrdist_count_numbers(const double *x, const uint8_t *group, int64_t n, int64_t groups,
                              int64_t bits, int64_t lowest, int64_t most, uint32_t *table,
                              int64_t *missing, double *stats, int64_t *bins, int64_t *counts) {
    const int shift = (int)(52 - bits);
    const int64_t base = (1023 + lowest) << bits;
    int64_t first = most, last = -most;
    double sum = 0, least = stats[1], greatest = stats[2];
    uint32_t *middle = table + most * groups;
    for (int64_t i = 0; i < n; i++) {
        const int64_t g = group ? group[i] : 0;
        const double v = x[i];
        if (v != v) {
            missing[g]++;
            continue;
        }
        const int64_t k = bin_of(v, shift, base, most);
        middle[k * groups + g]++;
        first = k < first ? k : first;
        last = k > last ? k : last;
        sum += v;
        least = v < least ? v : least;
        greatest = v > greatest ? v : greatest;
    }
    stats[0] += sum;
    stats[1] = least;
    stats[2] = greatest;

    int64_t filled = 0;
    for (int64_t k = first; k <= last; k++) {
        uint32_t *row = middle + k * groups;
        uint32_t any = 0;
        for (int64_t g = 0; g < groups; g++)
            any |= row[g];
        if (!any)
            continue;
        bins[filled] = k;
        for (int64_t g = 0; g < groups; g++) {
            counts[filled * groups + g] = row[g];
            row[g] = 0;
        }
        filled++;
    }
    return filled;
}

/* Adds to table, (cells, groups). Ids from `cells - 1` on share the last cell or, where `first` is
   not 0, those from `first` on are spread over the cells from `first` on. */
void ctrdist_count_ids(const int32_t *ids, const uint8_t *group, int64_t n, int64_t groups,
                       int64_t cells, int64_t first, int64_t *table) {
    const uint32_t last = (uint32_t)(cells - 1), from = (uint32_t)first;
    const uint32_t wide = (uint32_t)cells - from;
    for (int64_t i = 0; i < n; i++) {
        uint32_t id = (uint32_t)ids[i];
        if (first)
            id = id < from ? id : from + (id - from) % wide;
        else
            id = id > last ? last : id;
        table[id * groups + group[i]]++;
    }
}
