/* peer_llmc: training steps of llm.c's CPU program, train_gpt2.c, for bench/run.sh --peer llmc; LLMC_TRAIN_GPT2,
 * given on the compile line, is its path.
 *
 *     peer_llmc CHECKPOINT ROWS STEPS T
 *
 * CHECKPOINT and ROWS are written by bench/llmc_files.py; step i trains on row i, B = 1.  A line "step i/STEPS"
 * ends each step; the last line is {"seconds": […], "loss": […]}.
 *
 * A row of T tokens has T − 1 labels, as on our side: the last cell has none.  llm.c knows no such cell, so
 * after the forward pass its probabilities are set to 0 and its label to none, which makes its gradient 0.
 * llm.c still divides by T: its gradients are (T − 1)/T of ours, on which AdamW's step depends only by ε. */
#define TESTING /* without its main */
#include LLMC_TRAIN_GPT2

/* as in bench/ours.py's recipe */
static const float LR = 1e-5f, BETA1 = 0.9f, BETA2 = 0.999f, EPS = 1e-8f, DECAY = 0.01f;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/** @return rows × T ids; the process ends with a message where the file holds fewer */
static int *read_rows(const char *path, size_t count)
{
    int *ids = mallocCheck(count * sizeof *ids);
    FILE *f = fopenCheck(path, "rb");
    freadCheck(ids, sizeof *ids, count, f);
    fcloseCheck(f);
    return ids;
}

/** One step on ids[T]; targets[T] is scratch.  @return the mean loss of the T − 1 labels */
static double train_step(GPT2 *m, const int *ids, int *targets, size_t T, int number)
{
    double loss = 0;
    size_t padded = (size_t)m->config.padded_vocab_size;
    memcpy(targets, ids + 1, (T - 1) * sizeof *targets);
    targets[T - 1] = 0; /* any id: taken back below */
    gpt2_forward(m, (int *)ids, targets, 1, T);
    for (size_t t = 0; t + 1 < T; t++) loss += m->acts.losses[t];
    m->targets[T - 1] = -1;
    memset(m->acts.probs + (T - 1) * padded, 0, padded * sizeof(float));
    gpt2_zero_grad(m);
    gpt2_backward(m);
    gpt2_update(m, LR, BETA1, BETA2, EPS, DECAY, number);
    return loss / (double)(T - 1);
}

static void print_array(const char *name, const double *x, int n, const char *end)
{
    printf("\"%s\": [", name);
    for (int i = 0; i < n; i++) printf("%s%.9g", i ? ", " : "", x[i]);
    printf("]%s", end);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: peer_llmc CHECKPOINT ROWS STEPS T\n");
        return 2;
    }
    int steps = (int)strtol(argv[3], NULL, 10), T = (int)strtol(argv[4], NULL, 10);
    GPT2 model;
    gpt2_build_from_checkpoint(&model, argv[1]);
    if (steps < 1 || T < 2 || T > model.config.max_seq_len) {
        fprintf(stderr, "peer_llmc: %d steps of %d tokens: at least 1, and 2 to %d\n", steps, T,
                model.config.max_seq_len);
        return 2;
    }
    int *ids = read_rows(argv[2], (size_t)steps * (size_t)T);
    int *targets = mallocCheck((size_t)T * sizeof *targets);
    double *seconds = mallocCheck((size_t)steps * sizeof *seconds);
    double *loss = mallocCheck((size_t)steps * sizeof *loss);
    for (int i = 0; i < steps; i++) {
        double begin = now();
        loss[i] = train_step(&model, ids + (size_t)i * (size_t)T, targets, (size_t)T, i + 1);
        seconds[i] = now() - begin;
        printf("step %d/%d\n", i + 1, steps);
        fflush(stdout);
    }
    printf("{");
    print_array("seconds", seconds, steps, ", ");
    print_array("loss", loss, steps, "}\n");
    free(ids), free(targets), free(seconds), free(loss);
    gpt2_free(&model);
    return 0;
}
