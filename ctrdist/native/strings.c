/* Hashes of strings. String i is bytes[starts[i]] … bytes[starts[i + 1] - 1]. */
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
