/* Columns of strings: rows taken from them, and hashes. String i is bytes[starts[i]] …
 * bytes[starts[i + 1] - 1]. */
#define _DEFAULT_SOURCE
#include "string_table.h"

enum { AHEAD = 12 };

/* The chosen strings one after the other. starts_out: (n + 1,), filled beforehand. */
void ctrdist_take(const int32_t *chosen, int64_t n, const int64_t *starts, const uint8_t *bytes,
                  const int64_t *starts_out, uint8_t *out)
{
    for (int64_t i = 0; i < n; i++) {
        if (i + AHEAD < n) __builtin_prefetch(bytes + starts[chosen[i + AHEAD]]);
        copy_bytes(out + starts_out[i], bytes + starts[chosen[i]],
                   (uint64_t)(starts_out[i + 1] - starts_out[i]));
    }
}

/* SipHash of each string. key: (2,); out: (n,). */
void ctrdist_siphash(const int64_t *starts, const uint8_t *bytes, int64_t n, const uint64_t *key,
                     uint64_t *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = siphash(key, bytes + starts[i], (uint32_t)(starts[i + 1] - starts[i]),
                         bytes + starts[n]);
}
