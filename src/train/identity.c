/* identity.c: before anything is allocated, every rank must be about to do the same work: the same recipe,
 * the same data, the same binary. (That the programs are equal is am_engine_agree's part; a learning rate or
 * a seed stands in no program.) */
#include "train/train_internal.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of this program's own file; 0 where it cannot be read, which is no difference. */
static uint64_t binary_hash(void)
{
    uint64_t hash = 0;
    struct stat info;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    if (fstat(fd, &info) == 0 && info.st_size > 0) {
        void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes != MAP_FAILED) {
            hash = am_hash64(bytes, (size_t)info.st_size, 0);
            munmap(bytes, (size_t)info.st_size);
        }
    }
    close(fd);
    return hash;
}

typedef struct am_identity {
    uint64_t recipe, data[1 + AM_MAX_VALIDATIONS], binary;
} am_identity;

static am_status judge(am_run *r, const am_identity *mine, const am_identity *first, const am_str *difference)
{
    am_status st = AM_OK;
    int rank = r->engine->rank;
    AM_CHECK(mine->recipe == first->recipe, AM_ERR_CONFIG,
             "rank %d read another recipe: %s; start all ranks with the same one", rank,
             difference->s ? difference->s : "");
    AM_CHECK(memcmp(mine->data, first->data, sizeof mine->data) == 0, AM_ERR_DATA,
             "rank %d sees other token shards than rank 0 (table %016" PRIx64 ", not %016" PRIx64
             "): is one of them reading an older copy?",
             rank, mine->data[0], first->data[0]);
    AM_CHECK(mine->binary == first->binary || !mine->binary || !first->binary, AM_ERR_ENVIRONMENT,
             "rank %d runs another binary than rank 0: install the same automodel on all nodes", rank);
done:
    return st;
}

am_status am_run_identify(am_run *r)
{
    am_status st = AM_OK;
    am_identity mine, *all = NULL;
    am_str difference = {0};
    bool same = true;
    memset(&mine, 0, sizeof mine);
    if (r->engine->size == 1) return AM_OK;
    mine.recipe = am_hash64(r->recipe.s, r->recipe.len, 0);
    mine.data[0] = am_dataset_get_counts(r->data)->table_hash;
    for (int i = 0; i < r->num_validations; i++)
        mine.data[1 + i] = am_dataset_get_counts(r->validation[i])->table_hash;
    mine.binary = binary_hash();
    AM_TRY(am_calloc((size_t)r->engine->size, sizeof mine, &all));
    AM_TRY(am_comm_allgather(r->engine->comm, &mine, sizeof mine, all));
    for (int k = 0; k < r->engine->size; k++) same = same && all[k].recipe == all[0].recipe;
    if (!same) AM_TRY(am_engine_first_difference(r->engine, &r->recipe, &difference));
    AM_TRY(am_engine_together(r->engine, judge(r, &mine, &all[0], &difference)));
done:
    am_str_release(&difference);
    am_free(&all);
    return st;
}
