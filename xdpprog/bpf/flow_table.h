// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The kernel's flow table: what userspace has decided about flows, which hooks repeat for the rest of each. Its maps
// are arrays that userspace has mapped and alone writes (dataplane/offload has the same layout); hooks read them and
// count.
//
// A record is found by an index of buckets, one cache line each. A slot of a bucket has 31 bits of the key's hash, the
// direction, and the record's number and 1; 0 is empty. A key is in the bucket of its hash or in the one after that
// which find_flow says.
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"
#include "shared.h"

// The loader sets the sizes of these.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow_bucket);
	__uint(max_entries, 1);
} flow_buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow_record);
	__uint(max_entries, 1);
} flow_records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct egress);
	__uint(max_entries, MAX_EGRESSES);
} egresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow_control);
	__uint(max_entries, 1);
} flow_control SEC(".maps");

// A bit for each record, of which userspace is to look soon. It takes the bits.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} flow_news SEC(".maps");

// What a record is found by: where a packet came in, and its ends. Those of a pair have no ports.
struct flow_key {
	struct ip_address src;
	struct ip_address dst;
	__be16 src_port;
	__be16 dst_port;
	__u32 port; // PortID that it came in by, 24 bits
	__u8 proto;
	__u8 reserved[3];
};

// TCP connections that were opened by a pair and have not ended: userspace takes them up when it withdraws the pair.
struct opening {
	__u32 used;  // when it was opened, as of struct flow_way
	__u32 ended; // ends that have sent all they had to: ENDED_…
};

#define ENDED_OPENER 1
#define ENDED_OTHER  2

// Those that are opened from one port, of which the latest are remembered. The loader fills the array: a flood of one
// port's has nothing of another's be forgotten, unless they share a place.
#define OPENERS	 128
#define OPENINGS 1024

struct openings {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(key_size, sizeof(struct flow_key)); // clang leaves out types that an inner map alone names
	__uint(value_size, sizeof(struct opening));
	__uint(max_entries, OPENINGS);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, OPENERS);
	__array(values, struct openings);
} pair_openings SEC(".maps");

// openings_of is where the connections of an opener's port are; NULL: nobody remembers them.
static __always_inline void *openings_of(__u32 port)
{
	__u32 place = port % OPENERS;

	return bpf_map_lookup_elem(&pair_openings, &place);
}

static __always_inline __u64 mix(__u64 h, __u64 word)
{
	h = (h ^ word) * HASH_FIRST;
	return h ^ h >> 29;
}

// key_hash is offload.hash in Go.
static __always_inline __u64 key_hash(const struct flow_control *c, const struct flow_key *k)
{
	const __u32 *s = k->src.word, *d = k->dst.word;
	__u64 h = c->seed[0];

	h = mix(h, s[0] | (__u64)s[1] << 32);
	h = mix(h, s[2] | (__u64)s[3] << 32);
	h = mix(h, d[0] | (__u64)d[1] << 32);
	h = mix(h, d[2] | (__u64)d[3] << 32);
	h = mix(h, k->src_port | (__u64)k->dst_port << 16 | (__u64)k->port << 32 | (__u64)k->proto << 56);
	h = (h ^ c->seed[1]) * HASH_NEXT;
	return h ^ h >> 32;
}

static __always_inline int same_address(const struct ip_address *a, const struct ip_address *b)
{
	return !((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2]) |
		 (a->word[3] ^ b->word[3]));
}

// A direction of a record.
struct found {
	struct flow_record *record; // NULL: none
	__u32 number;		    // the record's, from 0 on
	__u32 way;
};

// is_of says whether a record's direction is the key's: the opener sends near ends, the other end answers far ones.
static __always_inline int is_of(const struct flow_record *r, __u32 way, const struct flow_key *k)
{
	const struct flow_way *w = &r->way[way & 1];
	const struct ip_address *src = &r->near_src, *dst = &r->near_dst;
	__u32 ports = r->near_src_port | (__u32)r->near_dst_port << 16;

	if (way & 1) {
		src = &w->far_dst;
		dst = &r->far_src;
		ports = w->far_dst_port | (__u32)r->far_src_port << 16;
	}
	return w->from == k->port && r->proto == k->proto && ports == (k->src_port | (__u32)k->dst_port << 16) &&
	       same_address(&k->src, src) && same_address(&k->dst, dst);
}

// find_in is a loop, and so is find_flow: code that is run once a packet is mostly in no cache, and a record is one
// comparison away from its slot.
static __always_inline int find_in(__u32 bucket, __u64 hash, const struct flow_key *k, struct found *f)
{
	const struct flow_bucket *b = bpf_map_lookup_elem(&flow_buckets, &bucket);
	struct flow_record *r;
	__u64 slot;
	__u32 n;

	if (!b)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < FLOW_SLOTS; i++) {
		slot = b->slot[i];
		if ((slot ^ hash) >> 33 || !slot)
			continue;
		n = (__u32)slot - 1;
		r = bpf_map_lookup_elem(&flow_records, &n);
		if (!r || !is_of(r, slot >> 32, k))
			continue;
		f->record = r;
		f->number = n;
		f->way = slot >> 32 & 1;
		return 1;
	}
	return 0;
}

// find_flow finds the record of a key, and the direction in it, and says whether there is one. Userspace may be about
// to give the record to another flow: what is read of it counts if it is the key's between two looks at its version.
static __noinline __attribute__((unused)) int find_flow(const struct flow_control *c, const struct flow_key *k,
							struct found *f)
{
	__u64 hash = key_hash(c, k);
	__u32 bucket = hash & c->bucket_mask, other = hash >> 33 | 1;

#pragma clang loop unroll(disable)
	for (int i = 0; i < 2; i++) {
		if (find_in(bucket, hash, k, f))
			return 1;
		bucket = (bucket ^ other) & c->bucket_mask;
	}
	return 0;
}

// tell has userspace look at a record. What was noted in it before is seen then: the addition of the bit is a barrier.
static __always_inline void tell(__u32 number)
{
	__u32 word = number / 64;
	__u64 *news = bpf_map_lookup_elem(&flow_news, &word);

	if (news)
		__sync_fetch_and_or(news, 1ULL << (number & 63));
}

static __always_inline struct flow_control *the_control(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&flow_control, &zero);
}
