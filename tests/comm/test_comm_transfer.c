/* All-gather and exchange under mpirun: contents in closed form over every group of several meshes, many
 * transfers in flight that end out of order, pieces cut into messages, and exact counts of messages and
 * bytes. */
#include "comm_test.h"

static am_comm *comm;
static int me, world;
static int64_t sequence[AM_GROUP_WORLD + 1];

static int setup(void **state)
{
    am_comm_options o = {.max_requests = 16, .timeout_seconds = 60};
    if (am_comm_create("mpi", &o, &comm) != AM_OK) {
        am_error_print(stderr, -1);
        return 1;
    }
    me = am_comm_rank(comm);
    world = am_comm_size(comm);
    return 0;
}

static int teardown(void **state)
{
    if (am_comm_free(&comm) == AM_OK) return 0;
    am_error_print(stderr, -1);
    am_comm_abort(comm, 1);
}

/* the meshes of this world size; returns how many */
static int meshes(am_mesh out[8])
{
    int n = 0;
    out[n++] = (am_mesh){{1, 1, 1, world, 1, 1}};
    out[n++] = (am_mesh){{1, 1, 1, 1, world, 1}};
    if (world == 4) {
        out[n++] = (am_mesh){{1, 1, 1, 2, 2, 1}}; /* HSDP 2 × 2 */
        out[n++] = (am_mesh){{2, 1, 1, 2, 1, 1}};
        out[n++] = (am_mesh){{1, 2, 1, 1, 1, 2}};
    }
    if (world == 2) out[n++] = (am_mesh){{2, 1, 1, 1, 1, 1}};
    return n;
}

typedef struct transfer {
    am_comm_request r;
    unsigned char *send, *recv;
    int members[64], size, index;
    int64_t tag; /* of the pattern */
} transfer;

static void prepare(transfer *t, const am_mesh *m, am_comm_kind kind, uint32_t group, size_t bytes, int slot)
{
    t->size = members_of(m, group, me, t->members);
    for (int i = 0; i < t->size; i++)
        if (t->members[i] == me) t->index = i;
    size_t pieces = kind == AM_COMM_EXCHANGE ? (size_t)t->size : 1;
    t->send = malloc(pieces * bytes + 1);
    t->recv = malloc((size_t)t->size * bytes + 2);
    memset(t->recv, 0xee, (size_t)t->size * bytes + 2);
    t->tag = sequence[group] + group;
    for (size_t i = 0; i < pieces; i++)
        fill(t->send + i * bytes, bytes, me, kind == AM_COMM_EXCHANGE ? t->members[i] : TO_ALL, t->tag);
    t->r =
        (am_comm_request){kind, group, sequence[group]++, "test transfer", t->send, t->recv + 1, bytes, slot};
}

static void check(transfer *t)
{
    size_t b = t->r.bytes;
    for (int i = 0; i < t->size; i++)
        assert_true(matches(t->recv + 1 + (size_t)i * b, b, t->members[i],
                            t->r.kind == AM_COMM_EXCHANGE ? me : TO_ALL, t->tag));
    assert_int_equal(t->recv[0], 0xee); /* nothing beyond the ends */
    assert_int_equal(t->recv[1 + (size_t)t->size * b], 0xee);
    free(t->send);
    free(t->recv);
}

static void test_transfer__every_group_of_every_mesh(void **state)
{
    am_mesh all[8];
    int n = meshes(all);
    static const size_t sizes[] = {0, 1, 1000, 70000};
    for (int i = 0; i < n; i++) {
        assert_ok(am_comm_set_mesh(comm, &all[i]));
        for (uint32_t group = 0; group <= AM_GROUP_WORLD; group++)
            for (int kind = AM_COMM_ALL_GATHER; kind <= AM_COMM_EXCHANGE; kind++) {
                transfer t;
                prepare(&t, &all[i], (am_comm_kind)kind, group, sizes[(group + (uint32_t)kind) % 4], 0);
                assert_ok(am_comm_start(comm, &t.r));
                assert_ok(am_comm_wait(comm, 0));
                assert_true(am_comm_done(comm, 0));
                check(&t);
            }
    }
}

/* Sixteen at once over two groups, started in another order on every rank, awaited backwards. */
static void test_transfer__many_in_flight_out_of_order(void **state)
{
    am_mesh m = world == 4 ? (am_mesh){{1, 1, 1, 2, 2, 1}} : (am_mesh){{1, 1, 1, world, 1, 1}};
    transfer t[16];
    assert_ok(am_comm_set_mesh(comm, &m));
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 16; i++)
            prepare(&t[i], &m, i % 3 ? AM_COMM_EXCHANGE : AM_COMM_ALL_GATHER,
                    i % 2 ? AM_GROUP_DP_SHARD : AM_GROUP_WORLD, (size_t)(i * i * 1501 + round), i);
        for (int i = 0; i < 16; i++) assert_ok(am_comm_start(comm, &t[(i * 5 + me * 3) % 16].r));
        for (int i = 15; i >= 0; i--) assert_ok(am_comm_wait(comm, i));
        for (int i = 0; i < 16; i++) check(&t[i]);
    }
}

static void test_transfer__seven_megabytes(void **state)
{
    am_mesh m = {{1, 1, 1, world, 1, 1}};
    transfer t[4];
    assert_ok(am_comm_set_mesh(comm, &m));
    for (int i = 0; i < 4; i++)
        prepare(&t[i], &m, i % 2 ? AM_COMM_EXCHANGE : AM_COMM_ALL_GATHER, AM_GROUP_WORLD, 7000003, i);
    for (int i = 0; i < 4; i++) assert_ok(am_comm_start(comm, &t[i].r));
    for (int i = 0; i < 4; i++) assert_ok(am_comm_wait(comm, i));
    for (int i = 0; i < 4; i++) check(&t[i]);
}

static void test_transfer__gather_in_place(void **state)
{
    am_mesh m = {{1, 1, 1, world, 1, 1}};
    const size_t bytes = 5000;
    unsigned char *buf = malloc(bytes * (size_t)world);
    assert_ok(am_comm_set_mesh(comm, &m));
    fill(buf + (size_t)me * bytes, bytes, me, TO_ALL, 1);
    am_comm_request r = {AM_COMM_ALL_GATHER,
                         AM_GROUP_DP,
                         sequence[AM_GROUP_DP]++,
                         "in place",
                         buf + (size_t)me * bytes,
                         buf,
                         bytes,
                         2};
    assert_ok(am_comm_start(comm, &r));
    assert_ok(am_comm_wait(comm, 2));
    for (int i = 0; i < world; i++) assert_true(matches(buf + (size_t)i * bytes, bytes, i, TO_ALL, 1));
    free(buf);
}

/* The cutting of long pieces, with 1000 in the place of 2^30. */
static void test_transfer__cut_into_messages_and_counted(void **state)
{
    am_mesh m = world == 4 ? (am_mesh){{1, 1, 1, 2, 2, 1}} : (am_mesh){{1, 1, 1, world, 1, 1}};
    static const size_t sizes[] = {0, 1, 999, 1000, 1001, 2000, 123456};
    static const int64_t messages[] = {0, 1, 1, 1, 2, 2, 124};
    static const uint32_t groups[] = {AM_GROUP_WORLD, AM_GROUP_DP_SHARD, AM_GROUP_DP_REPLICATE};
    assert_ok(am_comm_set_mesh(comm, &m));
    am_comm_set_message_bytes(comm, 1000);
    assert_ok(am_comm_barrier(comm));
    for (int g = 0; g < 3; g++)
        for (size_t i = 0; i < 7; i++)
            for (int kind = AM_COMM_ALL_GATHER; kind <= AM_COMM_EXCHANGE; kind++) {
                transfer t;
                am_comm_counters before = am_comm_count(comm), after;
                prepare(&t, &m, (am_comm_kind)kind, groups[g], sizes[i], 7);
                assert_ok(am_comm_start(comm, &t.r));
                assert_ok(am_comm_wait(comm, 7));
                check(&t);
                after = am_comm_count(comm);
                assert_int_equal(after.operations - before.operations, 1);
                assert_int_equal(after.messages - before.messages, (t.size - 1) * messages[i]);
                assert_int_equal(after.bytes - before.bytes, (int64_t)sizes[i] * (t.size - 1));
            }
    am_comm_set_message_bytes(comm, AM_COMM_MESSAGE_BYTES);
    assert_ok(am_comm_barrier(comm));
}

/* Sequence numbers far beyond what a tag can tell apart, and groups of equal bit set that sit side by side.
 */
static void test_transfer__long_sequences(void **state)
{
    am_mesh m = {{1, 1, 1, world, 1, 1}};
    assert_ok(am_comm_set_mesh(comm, &m));
    static const int64_t firsts[] = {((int64_t)1 << 24) - 3, ((int64_t)1 << 40) - 2, INT64_MAX - 100};
    for (int f = 0; f < 3; f++) {
        transfer t[8];
        sequence[AM_GROUP_DP_SHARD] = firsts[f];
        for (int i = 0; i < 8; i++) prepare(&t[i], &m, AM_COMM_EXCHANGE, AM_GROUP_DP_SHARD, 100, i);
        for (int i = 0; i < 8; i++) assert_ok(am_comm_start(comm, &t[me % 2 ? 7 - i : i].r));
        for (int i = 0; i < 8; i++) assert_ok(am_comm_wait(comm, i));
        for (int i = 0; i < 8; i++) check(&t[i]);
    }
    sequence[AM_GROUP_DP_SHARD] = 0;
}

static void test_transfer__misuse_is_named(void **state)
{
    am_mesh m = {{1, 1, 1, world, 1, 1}};
    unsigned char send[64], recv[64 * 8];
    assert_ok(am_comm_set_mesh(comm, &m));
    am_comm_request r = {AM_COMM_ALL_GATHER, AM_GROUP_WORLD, 0, "misuse", send, recv, 8, 16};
    assert_int_equal(am_comm_start(comm, &r), AM_ERR_INTERNAL);
    assert_non_null(strstr(am_error_message(), "slot 16 of 16"));
    r.slot = 0;
    r.group = 1u << 9;
    assert_int_equal(am_comm_start(comm, &r), AM_ERR_INTERNAL);
    r.group = AM_GROUP_WORLD;
    r.bytes = SIZE_MAX / 2;
    if (world > 1) assert_int_equal(am_comm_start(comm, &r), AM_ERR_INTERNAL);
    assert_int_equal(am_comm_wait(comm, -1), AM_ERR_INTERNAL);
    am_error_clear();
    assert_ok(am_comm_barrier(comm));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transfer__every_group_of_every_mesh),
        cmocka_unit_test(test_transfer__many_in_flight_out_of_order),
        cmocka_unit_test(test_transfer__seven_megabytes),
        cmocka_unit_test(test_transfer__gather_in_place),
        cmocka_unit_test(test_transfer__cut_into_messages_and_counted),
        cmocka_unit_test(test_transfer__long_sequences),
        cmocka_unit_test(test_transfer__misuse_is_named),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
