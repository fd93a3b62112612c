/* commit.c: all ranks have written.  Rank 0 gathers the pieces, checks that together they are every element
 * once, and writes the manifest: from its rename on the new checkpoint is the latest.  Then older ones go.
 * The manifest is {"xxh3":"…","body":…}: the hash covers the body's bytes as they stand in the file. */
#include "ckpt/ckpt_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What a rank tells about itself before it sends its pieces. */
typedef struct contribution {
    int64_t num_pieces;
    am_rank_file file;
} contribution;

typedef struct gathered {
    contribution *rank;
    am_piece *piece;
    size_t n;
} gathered;

static am_status gather_pieces(am_ckpt *k, gathered *g)
{
    am_status st = AM_OK;
    int ranks = am_comm_size(k->c);
    contribution mine = {(int64_t)k->pieces.n, k->file};
    AM_TRY(am_calloc((size_t)ranks, sizeof *g->rank, &g->rank));
    AM_TRY(am_comm_allgather(k->c, &mine, sizeof mine, g->rank));
    if (am_comm_rank(k->c) != 0) {
        if (k->pieces.n) AM_TRY(am_comm_send(k->c, k->pieces.at, k->pieces.n * sizeof(am_piece), 0));
        goto done;
    }
    for (int r = 0; r < ranks; r++) g->n += (size_t)g->rank[r].num_pieces;
    AM_TRY(am_calloc(g->n, sizeof *g->piece, &g->piece));
    am_piece *to = g->piece;
    for (int r = 0; r < ranks; r++) {
        size_t n = (size_t)g->rank[r].num_pieces;
        if (r == 0 && n)
            memcpy(to, k->pieces.at, n * sizeof *to);
        else if (n)
            AM_TRY(am_comm_recv(k->c, to, n * sizeof *to, r));
        for (size_t i = 0; i < n; i++) to[i].file = r;
        to += n;
    }
    am_pieces_sort(g->piece, g->n);
done:
    return st;
}

/* ---- the manifest --------------------------------------------------------------------------------- */

static json_t *hex(uint64_t x)
{
    char text[20];
    snprintf(text, sizeof text, "%016" PRIx64, x);
    return json_string(text);
}

static json_t *describe_files(const am_ckpt *k, const gathered *g)
{
    json_t *files = json_array();
    for (int r = 0; r < am_comm_size(k->c); r++) {
        char name[AM_CKPT_NAME_BYTES];
        am_rank_file_name(k, r, name);
        json_array_append_new(files, json_pack("{s:s, s:I, s:o}", "name", name, "bytes",
                                               (json_int_t)g->rank[r].file.bytes, "header",
                                               hex(g->rank[r].file.header)));
    }
    return files;
}

/* [[file, begin, count, hash], …] of one parameter in one role; *i moves over its pieces.  NULL: no memory.
 */
static json_t *describe_pieces(const gathered *g, int param, int role, size_t *i)
{
    json_t *list = json_array();
    bool ok = list != NULL;
    for (; *i < g->n && g->piece[*i].param == param && g->piece[*i].role == role; ++*i) {
        const am_piece *x = &g->piece[*i];
        json_t *entry =
            json_pack("[i, I, I, o]", x->file, (json_int_t)x->begin, (json_int_t)x->count, hex(x->hash));
        ok = ok && json_array_append_new(list, entry) == 0;
    }
    if (!ok) json_decref(list);
    return ok ? list : NULL;
}

static json_t *describe_tensors(const am_program *p, const gathered *g)
{
    json_t *tensors = json_object();
    size_t i = 0;
    bool ok = tensors != NULL;
    for (int param = 0; param < am_graph_num_params(p->graph); param++) {
        const am_param *x = am_graph_param_at(p->graph, param);
        json_t *shape = json_array(), *t;
        for (int d = 0; d < x->rank; d++) json_array_append_new(shape, json_integer(x->dim[d]));
        t = json_pack("{s:o, s:b}", "shape", shape, "trainable", x->trainable);
        for (int role = 0; role < (x->trainable ? AM_CKPT_ROLES : 1); role++)
            ok = json_object_set_new(t, am_ckpt_role_name[role], describe_pieces(g, param, role, &i)) == 0 &&
                 ok;
        ok = json_object_set_new(tensors, x->name, t) == 0 && ok;
    }
    if (!ok) json_decref(tensors);
    return ok ? tensors : NULL;
}

static json_t *describe_state(const am_ckpt *k)
{
    const am_ckpt_state *s = &k->state;
    return json_pack("{s:I, s:I, s:I, s:o, s:o}", "step", (json_int_t)s->step, "samples",
                     (json_int_t)s->samples, "tokens", (json_int_t)s->tokens, "seed", hex(s->seed),
                     "data_hash", hex(s->data_hash));
}

static json_t *describe_layout(const am_ckpt *k)
{
    const am_mesh *mesh = &k->p->options.mesh;
    return json_pack("{s:i, s:I, s:I}", "ranks", am_comm_size(k->c), "dp_shard",
                     (json_int_t)mesh->size[AM_MESH_DP_SHARD], "dp_replicate",
                     (json_int_t)mesh->size[AM_MESH_DP_REPLICATE]);
}

static am_status manifest_text(const am_ckpt *k, const gathered *g, json_t *files, am_str *out)
{
    am_status st = AM_OK;
    const am_ckpt_state *s = &k->state;
    char *text = NULL;
    json_t *body =
        json_pack("{s:i, s:s, s:s, s:o, s:s, s:s, s:s, s:o, s:O, s:o}", "format", 1, "save_id", k->save_id,
                  "dtype", am_dtype_name(k->p->store.dtype), "state", describe_state(k), "recipe", s->recipe,
                  "model_dir", s->model_dir, "family", s->family, "layout", describe_layout(k), "files",
                  files, "tensors", describe_tensors(k->p, g));
    AM_CHECK(body, AM_ERR_CHECKPOINT,
             "the manifest cannot be made: the recipe, the model's path or a name is not UTF-8");
    text = json_dumps(body, JSON_COMPACT);
    AM_CHECK(text, AM_ERR_MEMORY, "no memory for the manifest");
    AM_TRY(am_str_printf(out, "{\"xxh3\":\"%016" PRIx64 "\",\"body\":", am_hash64(text, strlen(text), 0)));
    AM_TRY(am_str_append(out, text, strlen(text)));
    AM_TRY(am_str_append(out, "}\n", 2));
done:
    json_decref(body);
    free(text);
    return st;
}

/* Rank 0.  The entry of the step directory is flushed before the manifest makes it a checkpoint. */
static am_status publish(am_ckpt *k, const gathered *g)
{
    am_status st = AM_OK;
    am_str text = {0};
    char *path = NULL;
    bool begun = false;
    json_t *files = describe_files(k, g);
    AM_TRY(am_pieces_check_whole(k->p, g->piece, g->n));
    AM_TRY(manifest_text(k, g, files, &text));
    AM_TRY(am_path_join(k->step_dir, "manifest.json", &path));
    AM_TRY(am_dir_sync(k->dir, false));
    begun = true;
    AM_TRY(am_file_write_atomic(path, text.s, text.len));
    am_step_sweep(k->step_dir, files);
done:
    /* renamed, then not flushed: either state may survive, so say that it is none; an older manifest of this
     * step was replaced, both saves' files stand, and both states are whole */
    if (st != AM_OK && begun && !k->again) (void)unlink(path);
    json_decref(files);
    am_str_release(&text);
    am_free(&path);
    return st;
}

/* ---- retention ------------------------------------------------------------------------------------ */

/* Rank 0.  The checkpoint just committed (its files were read back) always stays; of the older ones the
 * newest keep - 1. What is older and was never committed goes too.  Newer step directories belong to a course
 * that this run has left (they were refused, or the user went back): they are not counted and not touched. */
static void retain(const am_ckpt *k)
{
    am_step_entry *step = NULL;
    size_t n = 0;
    int committed = 1;
    bool failed = am_steps_list(k->dir, &step, &n) != AM_OK;
    if (failed) am_log(AM_LOG_WARN, "ckpt", "older checkpoints stay: %s", am_error_message());
    for (size_t i = 0; i < n; i++) {
        if (step[i].step > k->state.step && step[i].committed)
            am_log(
                AM_LOG_WARN, "ckpt",
                "%s holds a checkpoint of step %" PRId64 ", beyond this run's step %" PRId64
                ": it is left as it is, and the next start finds it first; move it away if it is not wanted",
                k->dir, step[i].step, k->state.step);
        if (step[i].step >= k->state.step) continue;
        if (step[i].committed && (k->o.keep == 0 || ++committed <= k->o.keep)) continue;
        if (am_step_remove(k->dir, step[i].step) != AM_OK)
            am_log(AM_LOG_WARN, "ckpt", "%s", am_error_message());
    }
    am_free(&step);
}

am_status am_ckpt_commit(am_ckpt *k, char *reason, size_t size)
{
    am_status st = AM_OK;
    gathered g = {0};
    struct {
        bool failed;
        char text[512];
    } outcome = {0};
    AM_TRY(gather_pieces(k, &g));
    if (am_comm_rank(k->c) == 0 && publish(k, &g) != AM_OK) {
        outcome.failed = true;
        snprintf(outcome.text, sizeof outcome.text, "the manifest: %s", am_error_message());
    }
    AM_TRY(am_comm_bcast(k->c, &outcome, sizeof outcome, 0));
    if (outcome.failed) {
        snprintf(reason, size, "%s", outcome.text);
        goto done;
    }
    am_free(&k->last);
    AM_TRY(am_strdup(k->step_dir, &k->last));
    am_log(AM_LOG_INFO, "ckpt", "checkpoint %s committed", k->step_dir);
    if (am_comm_rank(k->c) == 0) retain(k);
done:
    am_free(&g.rank);
    am_free(&g.piece);
    return st;
}
