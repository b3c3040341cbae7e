/* Distinct values of a column: sorted into buckets by their hash, counted together over shards,
 * ordered by count and bytes.
 *
 * A block holds the n entries of one bucket of one shard: n hashes (uint64), n counts (int64),
 * n lengths (uint32), the values' bytes, zeros up to a multiple of 8. */
#define _GNU_SOURCE /* qsort_r */
#define STRING_COMPACT
#include "string_table.h"

enum { BUCKETS = 256, AHEAD = 12, SMALL = 48 };

static int64_t block_bytes(int64_t n, int64_t bytes) { return (20 * n + bytes + 7) & ~7LL; }

/* The first entry, (257,), and the first byte, (257,), of the block of each bucket, and the ends. */
void ctrdist_measure(const uint64_t *hashes, const uint32_t *lengths, int64_t n, int64_t *entries,
                     int64_t *offsets)
{
    int64_t numbers[BUCKETS] = {0}, bytes[BUCKETS] = {0};
    for (int64_t i = 0; i < n; i++) {
        numbers[hashes[i] >> 56]++;
        bytes[hashes[i] >> 56] += lengths[i];
    }
    entries[0] = offsets[0] = 0;
    for (int b = 0; b < BUCKETS; b++) {
        entries[b + 1] = entries[b] + numbers[b];
        offsets[b + 1] = offsets[b] + block_bytes(numbers[b], bytes[b]);
    }
}

/* Fills the blocks. values: one after the other; positions: (n,), position of each entry
 * in the input. */
void ctrdist_partition(const uint64_t *hashes, const int64_t *counts, const uint32_t *lengths,
                       const uint8_t *values, int64_t n, const int64_t *entries,
                       const int64_t *offsets, uint8_t *blocks, int32_t *positions)
{
    int64_t next[BUCKETS] = {0}; /* entry of each bucket */
    uint8_t *text[BUCKETS];      /* where its next value goes */
    for (int b = 0; b < BUCKETS; b++) {
        const int64_t padding = offsets[b + 1] - offsets[b] < 8 ? 0 : 8;
        memset(blocks + offsets[b + 1] - padding, 0, (size_t)padding);
        text[b] = blocks + offsets[b] + 20 * (entries[b + 1] - entries[b]);
    }
    for (int64_t i = 0; i < n; i++) {
        const int b = (int)(hashes[i] >> 56);
        const int64_t size = entries[b + 1] - entries[b], at = next[b]++;
        uint8_t *block = blocks + offsets[b];
        ((uint64_t *)block)[at] = hashes[i];
        ((int64_t *)block)[size + at] = counts[i];
        ((uint32_t *)(block + 16 * size))[at] = lengths[i];
        copy_bytes(text[b], values, lengths[i]);
        text[b] += lengths[i];
        values += lengths[i];
        positions[entries[b] + at] = (int32_t)i;
    }
}

/* Distinct values and how often each was counted. */
typedef struct {
    string_table *values;
    int64_t *counts, room;
} Table;

void ctrdist_table_free(Table *t)
{
    if (t == NULL) return;
    string_table_free(t->values);
    free(t->counts);
    free(t);
}

/* skip: the first bits of a hash that are equal for all values; at most 8. */
Table *ctrdist_table_new(int64_t skip)
{
    Table *t = calloc(1, sizeof(Table));
    if (t == NULL) return NULL;
    t->values = string_table_new(8 - (int)skip, (int)skip);
    if (t->values == NULL) {
        free(t);
        return NULL;
    }
    return t;
}

/* Room for so many further values and bytes; else -1. */
static int reserve(Table *t, int64_t values, int64_t bytes)
{
    if (string_table_reserve(t->values, values, (uint64_t)bytes)) return -1;
    if (t->values->count + values <= t->room) return 0;
    const int64_t room = t->values->count + values + t->room / 2;
    int64_t *counts = realloc(t->counts, (size_t)room * sizeof(int64_t));
    if (counts == NULL) return -1;
    memset(counts + t->room, 0, (size_t)(room - t->room) * sizeof(int64_t));
    t->counts = counts;
    t->room = room;
    return 0;
}

/* Adds the entries of neighbouring blocks. entries: (buckets + 1,), where each begins, by number.
 * bytes: at least those of the values; out: for each entry the index of its value.
 * Returns 0, or -1 where memory does not suffice. */
int64_t ctrdist_table_add(Table *t, const uint8_t *block, const int64_t *entries, int64_t buckets,
                          int64_t bytes, int32_t *out)
{
    /* At once for all blocks: with room for the first only, their values would crowd its slots. */
    if (reserve(t, entries[buckets] - entries[0], bytes)) return -1;
    string_table *values = t->values;
    for (int64_t b = 0; b < buckets; b++) {
        const int64_t n = entries[b + 1] - entries[b];
        const uint64_t *hashes = (const uint64_t *)block;
        const int64_t *counts = (const int64_t *)(block + 8 * n);
        const uint32_t *lengths = (const uint32_t *)(block + 16 * n);
        const uint8_t *value = block + 20 * n;
        for (int64_t i = 0; i < n; i++) {
            if (i + AHEAD < n) __builtin_prefetch(values->slots + string_home(values, hashes[i + AHEAD]));
            const int32_t index = string_table_add(values, hashes[i], value, lengths[i]);
            t->counts[index] += counts[i];
            value += lengths[i];
            *out++ = index;
        }
        block += block_bytes(n, value - block - 20 * n);
    }
    return 0;
}

/* The values are complete: what only adding needs is freed. addresses: (3,), those of counts (n,)
 * int64, starts (n + 1,) int64 and bytes. Returns n. */
int64_t ctrdist_table_finish(Table *t, int64_t *addresses)
{
    free(t->values->slots);
    free(t->values->hashes);
    t->values->slots = NULL;
    t->values->hashes = NULL;
    addresses[0] = (int64_t)t->counts;
    addresses[1] = (int64_t)t->values->ends;
    addresses[2] = (int64_t)t->values->bytes;
    return t->values->count;
}

typedef struct {
    uint64_t key;
    int64_t index;
} Item;

/* By key, equal keys in the order given: one counting pass for each byte that is not always the
 * same. */
static void sort_by_key(Item *items, Item *spare, int64_t n)
{
    if (n < SMALL) {
        for (int64_t i = 1; i < n; i++) {
            const Item item = items[i];
            int64_t at = i;
            for (; at > 0 && items[at - 1].key > item.key; at--) items[at] = items[at - 1];
            items[at] = item;
        }
        return;
    }
    uint64_t differ = 0;
    for (int64_t i = 1; i < n; i++) differ |= items[i].key ^ items[0].key;
    Item *from = items, *to = spare;
    for (int shift = 0; shift < 64; shift += 8) {
        if ((differ >> shift & 0xff) == 0) continue;
        int64_t next[257] = {0};
        for (int64_t i = 0; i < n; i++) next[(from[i].key >> shift & 0xff) + 1]++;
        for (int d = 0; d < 256; d++) next[d + 1] += next[d];
        for (int64_t i = 0; i < n; i++) to[next[from[i].key >> shift & 0xff]++] = from[i];
        Item *const swapped = from;
        from = to;
        to = swapped;
    }
    if (from != items) memcpy(items, from, (size_t)n * sizeof(Item));
}

typedef struct {
    const int64_t *starts;
    const uint8_t *bytes;
} Texts;

static int compare(const void *left, const void *right, void *context)
{
    const Texts *texts = context;
    const int64_t a = ((const Item *)left)->index, b = ((const Item *)right)->index;
    const int64_t la = texts->starts[a + 1] - texts->starts[a];
    const int64_t lb = texts->starts[b + 1] - texts->starts[b];
    const int order = memcmp(texts->bytes + texts->starts[a], texts->bytes + texts->starts[b],
                             (size_t)(la < lb ? la : lb));
    return order != 0 ? order : (la > lb) - (la < lb);
}

/* How many first bytes all texts share. */
static int64_t common(const Item *items, int64_t n, const Texts *texts)
{
    const uint8_t *first = texts->bytes + texts->starts[items[0].index];
    int64_t shared = texts->starts[items[0].index + 1] - texts->starts[items[0].index];
    for (int64_t i = 1; i < n && shared > 0; i++) {
        const int64_t start = texts->starts[items[i].index];
        const int64_t length = texts->starts[items[i].index + 1] - start;
        if (length < shared) shared = length;
        int64_t same = 0;
        while (same < shared && texts->bytes[start + same] == first[same]) same++;
        shared = same;
    }
    return shared;
}

/* By the bytes: first by eight of them after those that all share, then, among equals, by all. */
static void sort_by_text(Item *items, Item *spare, int64_t n, Texts *texts)
{
    const int64_t shared = common(items, n, texts);
    for (int64_t i = 0; i < n; i++) {
        const int64_t start = texts->starts[items[i].index] + shared;
        const int64_t length = texts->starts[items[i].index + 1] - start;
        uint8_t prefix[8] = {0};
        if (length >= 8)
            memcpy(prefix, texts->bytes + start, 8);
        else
            for (int64_t k = 0; k < length; k++) prefix[k] = texts->bytes[start + k];
        uint64_t key;
        memcpy(&key, prefix, 8);
        items[i].key = __builtin_bswap64(key);
    }
    sort_by_key(items, spare, n);
    for (int64_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && items[end].key == items[i].key;) end++;
        if (end - i > 1) qsort_r(items + i, (size_t)(end - i), sizeof(Item), compare, texts);
    }
}

/* The order of values by falling count, equal counts by bytes. chosen: (n,) which values; out: (n,),
 * the same ordered. Returns 0, or -1 where memory does not suffice. */
int64_t ctrdist_order(const int32_t *chosen, int64_t n, const int64_t *counts,
                      const int64_t *starts, const uint8_t *bytes, int32_t *out)
{
    Texts texts = {starts, bytes};
    Item *items = malloc((size_t)(n + 1) * sizeof(Item));
    Item *spare = malloc((size_t)(n + 1) * sizeof(Item));
    if (items != NULL && spare != NULL) {
        for (int64_t i = 0; i < n; i++)
            items[i] = (Item){~(uint64_t)counts[chosen[i]], chosen[i]};
        sort_by_key(items, spare, n);
        for (int64_t i = 0, end; i < n; i = end) {
            for (end = i + 1; end < n && items[end].key == items[i].key;) end++;
            if (end - i > 1) sort_by_text(items + i, spare, end - i, &texts);
        }
        for (int64_t i = 0; i < n; i++) out[i] = (int32_t)items[i].index;
    }
    const int64_t failed = items == NULL || spare == NULL ? -1 : 0;
    free(items);
    free(spare);
    return failed;
}
