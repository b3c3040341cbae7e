/* Hashes of strings, and dictionaries: values to local ids 0, 1, 2, … in the order in which they
 * first appear. String i is bytes[starts[i]] … bytes[starts[i + 1] - 1]. */
#define _DEFAULT_SOURCE
#include "string_table.h"

/* SipHash of each string. key: (2,); out: (n,). */
void ctrdist_siphash(const int64_t *starts, const uint8_t *bytes, int64_t n, const uint64_t *key,
                     uint64_t *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = siphash(key, bytes + starts[i], (uint32_t)(starts[i + 1] - starts[i]),
                         bytes + starts[n]);
}

string_table *ctrdist_dictionary_new(void) { return string_table_new(0, 0); }

void ctrdist_dictionary_free(string_table *d) { string_table_free(d); }

/* Local ids of n values; value i is bytes[ends[i]] … bytes[ends[i + 1] - 1]. absent: (n,), or NULL.
 * Returns -1 without memory. */
int ctrdist_dictionary_add(string_table *d, const uint8_t *bytes, const int64_t *ends,
                           const uint8_t *absent, int64_t n, int32_t *ids)
{
    const uint8_t *at[ROWS], *limit = bytes + ends[n];
    int32_t length[ROWS];
    for (int64_t done = 0; done < n; done += ROWS) {
        const int64_t rows = n - done < ROWS ? n - done : ROWS;
        for (int64_t i = 0; i < rows; i++) {
            at[i] = bytes + ends[done + i];
            length[i] = absent && absent[done + i]
                            ? ABSENT
                            : (int32_t)(ends[done + i + 1] - ends[done + i]);
        }
        if (string_table_look_up(d, at, length, rows, limit, ids + done)) return -1;
    }
    return 0;
}

/* Local ids of n numbers as decimal texts; of the empty text where empty, (n,) or NULL, is set. */
int ctrdist_dictionary_add_integers(string_table *d, const int64_t *values, const uint8_t *empty,
                                    int64_t n, int32_t *ids)
{
    enum { DIGITS = 20 };
    uint8_t text[ROWS * DIGITS + 8]; /* 8 more: read at once */
    const uint8_t *at[ROWS];
    int32_t length[ROWS];
    for (int64_t done = 0; done < n; done += ROWS) {
        const int64_t rows = n - done < ROWS ? n - done : ROWS;
        for (int64_t i = 0; i < rows; i++) {
            uint8_t *end = text + (i + 1) * DIGITS, *begin = end;
            const int64_t value = values[done + i];
            uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
            do *--begin = (uint8_t)('0' + rest % 10);
            while (rest /= 10);
            if (value < 0) *--begin = '-';
            at[i] = begin;
            length[i] = empty && empty[done + i] ? 0 : (int32_t)(end - begin);
        }
        const uint8_t *limit = text + sizeof(text);
        if (string_table_look_up(d, at, length, rows, limit, ids + done)) return -1;
    }
    return 0;
}

/* Forgets the values with ids from `count` on. */
int ctrdist_dictionary_truncate(string_table *d, int64_t count)
{
    if (count >= d->count) return 0;
    d->count = count;
    return string_table_rebuild(d, d->bits, count);
}

int64_t ctrdist_dictionary_count(const string_table *d) { return d->count; }

int64_t ctrdist_dictionary_bytes(const string_table *d) { return (int64_t)d->ends[d->count]; }

/* ends: (count + 1); bytes: all values, in the order of ids; hashes: (count); each may be NULL */
void ctrdist_dictionary_read(const string_table *d, int64_t *ends, uint8_t *bytes, uint64_t *hashes)
{
    if (ends) memcpy(ends, d->ends, (size_t)(d->count + 1) * sizeof(uint64_t));
    if (bytes && d->ends[d->count]) memcpy(bytes, d->bytes, d->ends[d->count]);
    if (hashes)
        for (uint64_t i = 0; i >> d->bits == 0; i++)
            if (d->slots[i].next) hashes[d->slots[i].next - 1] = d->slots[i].hash;
}
