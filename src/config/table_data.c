/* Options of the data: dataset, validation_dataset*, packed_sequence, dataloader, validation_dataloader. */
#include "config/config_internal.h"

#define JSONL_INSTEAD                                                                                        \
    "write the texts as JSON lines and take ChatDataset, or ColumnMappedTextInstructionDataset with a "      \
    "column_mapping"
#define SHARDS_INSTEAD "tokenise with `automodel prepare` and take automodel.ShardDataset with data_dir"
#define FETCHED(n, columns)                                                                                  \
    {                                                                                                        \
        .name = n, .roots = "nemo_automodel",                                                                \
        .remedy =                                                                                            \
            "nothing is downloaded here: save it as JSON lines and write `_target_: "                        \
            "nemo_automodel.components."                                                                     \
            "datasets.llm.column_mapped_text_instruction_dataset.ColumnMappedTextInstructionDataset`, "      \
            "`path_or_dataset_id: FILE.jsonl`, `column_mapping: " columns "`"                                \
    }
#define MOCK(n)                                                                                              \
    {                                                                                                        \
        .name = n, .roots = "nemo_automodel",                                                                \
        .remedy = "made-up data are not trained on; " JSONL_INSTEAD                              \
    }

const am_target am_targets_tokenizer[] = {
    {.name = "AutoTokenizer.from_pretrained",
     .roots = "transformers|nemo_automodel",
     .example = "transformers.AutoTokenizer.from_pretrained"},
    {.name = "NeMoAutoTokenizer.from_pretrained",
     .roots = "nemo_automodel",
     .example = "nemo_automodel.NeMoAutoTokenizer.from_pretrained"},
    {0},
};

static const am_option shard_options[] = {
    AM_OPT("data_dir", STRING, NULL, "Folder of the token shards that `automodel prepare` wrote.",
           .required = true),
    AM_OPT("pattern", STRING, "*.h5", "Which of its files are taken."),
    {0},
};

#define OWN_MASK                                                                                             \
    "the loss mask comes from the chat template and the roles: remove it, or write one_sample_per_turn"

/* what every JSONL data set has */
#define JSONL_OPTIONS                                                                                        \
    AM_OPT("path_or_dataset_id", STRINGS, NULL,                                                              \
           "JSONL files, plain or gzip (globs are taken), in this order.", .required = true),                \
        AM_OPT_ALIAS("path_or_dataset", ".path_or_dataset_id"),                                              \
        AM_OPT("system_prompt", STRING, NULL, "A first turn for chats that have no system turn."),           \
        AM_OPT("special_as_text", BOOL, "false",                                                             \
               "A special token spelled in a prompt or text is ordinary text."),                             \
        AM_OPT("tokenizer._target_", TARGET, NULL, "", .targets = am_targets_tokenizer,                      \
               .conditional = true),                                                                         \
        AM_OPT("tokenizer.pretrained_model_name_or_path", STRING, NULL,                                      \
               "Directory of tokenizer and chat template; none: "                                            \
               "the model's."),                                                                              \
        AM_OPT_NO_EFFECT("tokenizer.trust_remote_code", "no code of a tokenizer is ever run"),               \
        AM_OPT_NO_EFFECT("shuffle_seed", "the order follows from rng.seed and dataloader.shuffle"),          \
        AM_OPT_REFUSED("split", "train|validation|valid|dev|test",                                           \
                       "name the file that holds these samples, or write "                                   \
                       "limit_dataset_samples"),                                                             \
        AM_OPT_REFUSED("name", NULL,                                                                         \
                       "files are read, not data sets of a hub: name the file in path_or_dataset_id"),       \
        AM_OPT_REFUSED("chat_template", NULL,                                                                \
                       "put it into chat_template.jinja of a directory with the tokenizer and name "         \
                       "that in tokenizer.pretrained_model_name_or_path"),                                   \
        AM_OPT_REFUSED("start_of_turn_token", NULL, OWN_MASK),                                               \
        AM_OPT_REFUSED("unshifted", "false", "labels are shifted by the engine: remove it"),                 \
        AM_OPT_REFUSED("skip_invalid_samples", "false",                                                      \
                       "an invalid line ends the run: correct or remove it"),                                \
        AM_OPT_REFUSED("tokenizer.*", NULL,                                                                  \
                       "the tokenizer's own files decide: change them, or remove this key")

static const am_option chat_options[] = {
    JSONL_OPTIONS,
    AM_OPT("one_sample_per_turn", BOOL, "false", "A chat becomes one sample for each assistant turn."),
    AM_OPT_REFUSED("mask_reasoning_content", "false", OWN_MASK),
    AM_OPT_REFUSED("mask_history", "false", OWN_MASK),
    {0},
};

static const am_option column_options[] = {
    JSONL_OPTIONS,
    AM_OPT("column_mapping.context", STRING, NULL, "Column put before the question."),
    AM_OPT("column_mapping.question", STRING, "prompt", "Column of the prompt."),
    AM_OPT("column_mapping.answer", STRING, "completion", "Column of the completion."),
    AM_OPT("column_mapping.text", STRING, "text", "Column of a whole text, for lines that have no prompt."),
    AM_OPT("answer_only_loss_mask", BOOL, "true", "Supervise the answer only, not the prompt."),
    AM_OPT("use_hf_chat_template", BOOL, "false", "Render question and answer as a chat."),
    AM_OPT_NO_EFFECT("repeat_on_exhaustion", "epochs are counted by step_scheduler"),
    AM_OPT_REFUSED("delta_*", NULL, "Delta tables are not read: write the samples as JSON lines"),
    {0},
};

const am_target am_targets_dataset[] = {
    {.name = "ShardDataset",
     .roots = "automodel",
     .example = "automodel.ShardDataset",
     .options = shard_options,
     .help = "token shards (HDF5) written by `automodel prepare`"},
    {.name = "ChatDataset",
     .roots = "nemo_automodel|automodel",
     .options = chat_options,
     .example = "nemo_automodel.components.datasets.llm.chat_dataset.ChatDataset",
     .help = "JSON lines with `messages` (and `tools`)"},
    {.name = "ColumnMappedTextInstructionDataset",
     .roots = "nemo_automodel|automodel",
     .options = column_options,
     .example = "nemo_automodel.components.datasets.llm.column_mapped_text_instruction_dataset."
                "ColumnMappedTextInstructionDataset",
     .help = "JSON lines with a prompt and a completion"},
    {.name = "ColumnMappedTextInstructionIterableDataset",
     .roots = "nemo_automodel",
     .options = column_options,
     .example = "nemo_automodel.components.datasets.llm.column_mapped_text_instruction_iterable_dataset."
                "ColumnMappedTextInstructionIterableDataset",
     .help = "the same; samples are never all in memory here"},
    FETCHED("HellaSwag", "{context: ctx, answer: ending}"),
    FETCHED("make_squad_dataset", "{context: context, question: question, answer: answer}"),
    FETCHED("make_seq2seq_dataset", "{question: inputs, answer: targets}"),
    {.name = "make_xlam_dataset",
     .roots = "nemo_automodel",
     .remedy = "nothing is downloaded here: write the calls as JSON lines with `messages` and `tools` and "
               "take ChatDataset"},
    {.name = "make_agent_chat_dataset",
     .roots = "nemo_automodel",
     .remedy = "write the traces as JSON lines with `messages` and `tools` and take ChatDataset"},
    {.name = "MegatronPretraining", .roots = "nemo_automodel", .remedy = SHARDS_INSTEAD},
    {.name = "NanogptDataset", .roots = "nemo_automodel", .remedy = SHARDS_INSTEAD},
    MOCK("MockIterableDataset"),
    MOCK("build_packed_dataset"),
    MOCK("build_unpacked_dataset"),
    {0},
};

const am_option am_options_dataset[] = {
    AM_OPT("seq_length", INT, NULL,
           "Tokens of a sequence when samples are not packed; none: what the model can hold.",
           .units = "tokens", .range = "[2, inf)"),
    AM_OPT("truncation", ENUM, "false",
           "true: a longer sample is cut at its end; false: it is an error, or dropped "
           "with packed_sequence.drop_long_samples.",
           .values = "true|false", .map = "longest_first=true|only_first=true|do_not_truncate=false"),
    AM_OPT("limit_dataset_samples", INT, NULL, "Take the first so many samples.", .units = "samples",
           .range = "[1, inf)"),
    AM_OPT_ALIAS("num_samples_limit", ".limit_dataset_samples"),
    AM_OPT_NO_EFFECT("padding", "short samples are packed or masked, never padded with tokens that count"),
    AM_OPT_NO_EFFECT("pad_to_max_length", "short samples are packed or masked"),
    {0},
};

const am_option am_options_packed_sequence[] = {
    AM_OPT("packed_sequence_size", INT, "0",
           "Length of a packed sequence; 0: one sample a sequence. Packed documents "
           "never attend across their boundary.",
           .units = "tokens", .range = "[0, inf)"),
    AM_OPT("drop_long_samples", BOOL, "false",
           "Drop and count samples longer than packed_sequence_size; else they end "
           "the run."),
    AM_OPT_NO_EFFECT("packing_strategy",
                     "there is one packing: documents in order, boundaries kept by doc_start"),
    AM_OPT_NO_EFFECT("num_proc", "packing is arithmetic over lengths"),
    AM_OPT("split_across_pack", BOOL, "false",
           "Cut a longer sample into pieces; none of its targets is lost."),
    AM_OPT_REFUSED("max_packs", NULL, "write dataset.limit_dataset_samples, or step_scheduler.max_steps"),
    {0},
};

#define OWN_LOADER "samples are read ahead by threads of the rank"

#define LOADER_OPTIONS                                                                                       \
    AM_OPT_NO_EFFECT("batch_size", "step_scheduler.local_batch_size decides"),                               \
        AM_OPT_NO_EFFECT("collate_fn", "sequences are put together by the engine"),                          \
        AM_OPT_NO_EFFECT("num_workers", OWN_LOADER), AM_OPT_NO_EFFECT("pin_memory", OWN_LOADER),             \
        AM_OPT_NO_EFFECT("prefetch_factor", OWN_LOADER), AM_OPT_NO_EFFECT("persistent_workers", OWN_LOADER), \
        AM_OPT_NO_EFFECT("multiprocessing_context", OWN_LOADER), AM_OPT_NO_EFFECT("timeout", OWN_LOADER),    \
        AM_OPT_NO_EFFECT("dataloader_type", OWN_LOADER),                                                     \
        AM_OPT_NO_EFFECT("drop_last", "the order of samples has no partial batch inside an epoch"),          \
        AM_OPT_REFUSED("group_by_length", "false", "pack instead: packed_sequence.packed_sequence_size"),    \
        AM_OPT_REFUSED("sampler", NULL, "the order follows from rng.seed and shuffle: remove it"),           \
        AM_OPT_REFUSED("batch_sampler", NULL, "the order follows from rng.seed and shuffle: remove it")

const am_option am_options_dataloader[] = {
    AM_OPT("shuffle", BOOL, "true",
           "Another order in every epoch, a function of rng.seed; false: that of the files."),
    LOADER_OPTIONS,
    {0},
};

const am_option am_options_validation_dataloader[] = {
    AM_OPT_NO_EFFECT("shuffle", "the validation loss does not depend on the order"),
    LOADER_OPTIONS,
    {0},
};

const am_target am_targets_dataloader[] = {
    {.name = "StatefulDataLoader",
     .roots = "torchdata|nemo_automodel",
     .example = "torchdata.stateful_dataloader.StatefulDataLoader"},
    {.name = "DataLoader", .roots = "torch", .example = "torch.utils.data.DataLoader"},
    {0},
};
