#!/usr/bin/env python3
"""What train refuses before its first step: one sentence that names the place and what to do, the documented
exit code, within seconds, and no run directory that looks like a run."""

import hashlib
import json
import pathlib
import struct

import runs


class Refusals(runs.Case):
    @classmethod
    def setUpClass(cls):
        cls.scratch = runs.Scratch()

    @classmethod
    def tearDownClass(cls):
        cls.scratch.close()

    def refused(self, code, words, ranks=0, recipe=None, **changes):
        """One message with all of `words`; from one process, or from `ranks` of which one speaks."""
        run_dir = self.scratch.fresh()
        recipe = recipe or self.scratch.recipe(run_dir, **changes)
        result = runs.run(ranks, "train", recipe)
        self.ends(result, code)
        self.one_message(result, *([words] if isinstance(words, str) else words))
        self.assertFalse(pathlib.Path(run_dir, "training.jsonl").exists(), str(result))
        return result

    def model(self, change=None, file="model.safetensors"):
        """The recipe's section for a copy of a golden model whose tensors `change` may edit."""
        folder = self.scratch.copy_model()
        if change:
            tensors = runs.safetensors(folder / file)
            change(tensors)
            runs.write_safetensors(folder / file, tensors)
        return folder, {"pretrained_model_name_or_path": str(folder)}

    # ---- model -------------------------------------------------------------------------------------------

    def test_refusals__weights(self):
        folder, section = self.model()
        weights = folder / "model.safetensors"
        whole = weights.read_bytes()
        weights.unlink()
        self.refused(3, r"has no weights: neither model\.safetensors nor", ranks=2, model=section)
        weights.write_bytes(whole[:-100])
        self.refused(
            3,
            r"model\.safetensors is truncated: its tensors need \d+ bytes of data, \d+ are there",
            model=section,
        )
        weights.write_bytes(struct.pack("<Q", 1 << 60) + whole[8:])
        self.refused(3, r"model\.safetensors.*header", model=section)
        self.refused(
            3,
            str(self.scratch.dir / "nowhere"),
            model={"pretrained_model_name_or_path": str(self.scratch.dir / "nowhere")},
        )

    def test_refusals__tensors(self):
        name = "model.layers.1.mlp.up_proj.weight"
        _, section = self.model(lambda t: t.pop(name))
        self.refused(
            3, [r"llama\.card:\d+:\d+", f"has no tensor `{name}`", r"\[64, 48\]"], ranks=2, model=section
        )
        _, section = self.model(lambda t: t.update({"model.extra.weight": ("F32", [2], bytes(8))}))
        self.refused(
            3,
            [
                r"1 tensor of the model is named by nothing",
                r"`model\.extra\.weight` \[2\]",
                "another card|Another card",
            ],
            model=section,
        )
        _, section = self.model(
            lambda t: t.update({"model.norm.weight": ("F32", [24], t["model.norm.weight"][2][:96])})
        )
        self.refused(
            3, [r"`model\.norm\.weight`", r"has the shape \[24\], the card says \[48\]"], model=section
        )

    def test_refusals__config_json(self):
        folder, section = self.model()
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "attention_window": 7}))
        self.refused(3, "attention_window", model=section)
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "made_up"}))
        self.refused(3, "made_up", model=section)
        (folder / "config.json").write_text("{")
        self.refused(3, r"config\.json", model=section)

    def test_refusals__a_tokenizer_that_is_not_the_datas(self):
        folder, section = self.model()
        (folder / "tokenizer.json").write_text("{}")
        self.refused(
            3,
            [
                r"shard-00000-of-00004\.h5",
                "was made with another tokenizer",
                "prepare the data with the model's tokenizer",
            ],
            model=section,
        )
        # and the same file passes when the shards name its hash
        sha = hashlib.sha256(b"{}").hexdigest()
        data = self.scratch.shards("named", sha=sha)
        run_dir = self.scratch.fresh()
        result = runs.run(
            1,
            "train",
            self.scratch.recipe(
                run_dir, model=section, dataset={"data_dir": str(data)}, step_scheduler={"max_steps": 1}
            ),
        )
        self.ends(result, 0)
        self.assertNotRegex(result.err, "cannot be checked")

    # ---- data --------------------------------------------------------------------------------------------

    def data(self, name, **keys):
        return {"data_dir": str(self.scratch.shards(name, **keys))}

    def test_refusals__data(self):
        self.refused(
            3,
            [r"run\d+\.yaml:\d+:\d+: there are no token shards .*none/\*\.h5", "automodel prepare"],
            dataset={"data_dir": str(self.scratch.dir / "none")},
        )
        self.refused(3, "the data are empty", ranks=2, dataset=self.data("empty", sequences=0))
        self.refused(
            3,
            r"sample 0 has \d\d tokens, a row 64; leave such samples out",
            dataset=self.data("long", min=70, max=80),
        )
        self.refused(
            3, r"none of the \d+ tokens is supervised", dataset=self.data("unsupervised", supervised=0)
        )
        self.refused(
            3,
            "its tokenizer has 200 tokens, the model's vocabulary 128",
            dataset=self.data("vocabulary", vocab=200),
        )
        one_missing = self.scratch.shards("missing")
        (one_missing / "shard-00002-of-00004.h5").unlink()
        self.refused(3, r"shard-00002-of-00004\.h5 is missing", dataset={"data_dir": str(one_missing)})
        broken = self.scratch.shards("broken")
        path = broken / "shard-00003-of-00004.h5"
        path.write_bytes(path.read_bytes()[:-1000])
        self.refused(3, r"shard-00003-of-00004\.h5", dataset={"data_dir": str(broken)})

    # ---- recipe ------------------------------------------------------------------------------------------

    def text(self, change, **changes):
        path = self.scratch.recipe(self.scratch.fresh(), **changes)
        before = path.read_text()
        path.write_text(change(before))
        self.assertNotEqual(before, path.read_text())
        return path

    def where(self, path, line_with):
        """file:line of the first line that holds `line_with`."""
        for number, line in enumerate(path.read_text().split("\n"), 1):
            if line_with in line:
                return rf"{path.name}:{number}:{len(line) - len(line.lstrip()) + 1}: "
        raise AssertionError(line_with)

    def test_refusals__typing_errors_in_the_recipe(self):
        path = self.text(lambda t: t.replace("max_steps", "max_step"))
        self.refused(
            2,
            [self.where(path, "max_step:"), 'unknown key "max_step"', 'did you mean "max_steps"'],
            ranks=2,
            recipe=path,
        )
        path = self.text(lambda t: t.replace("optimizer:", "optimiser:"))
        self.refused(
            2,
            [self.where(path, "optimiser:"), 'unknown section "optimiser"', 'did you mean "optimizer"'],
            recipe=path,
        )
        path = self.text(lambda t: t.replace('strategy: "fsdp2"', "strategy: fsdp3"))
        self.refused(2, [rf"{path.name}:\d+:13: ", "fsdp3", "fsdp2"], recipe=path)
        path = self.text(lambda t: t.replace("lr: 0.005", "lr: fast"))
        self.refused(2, [rf"{path.name}:\d+:7: ", "fast"], recipe=path)
        path = self.text(lambda t: t.replace("torch.optim.AdamW", "torch.optim.AdaW"))
        self.refused(
            2,
            [
                rf"{path.name}:\d+:13: ",
                'unknown _target_ "torch.optim.AdaW"',
                r"did you mean torch\.optim\.AdamW",
            ],
            recipe=path,
        )
        path = self.text(lambda t: t.replace("automodel.ShardDataset", "my.module.Dataset"))
        self.refused(
            2,
            [rf"{path.name}:\d+:13: ", 'unknown _target_ "my.module.Dataset"', r"automodel\.ShardDataset"],
            recipe=path,
        )
        path = self.text(lambda t: t.replace("run:\n", "run:\n\tdir: x\n"))
        self.refused(2, rf"{path.name}:2:1", recipe=path)
        self.refused(2, r"there-is-none\.yaml", recipe=self.scratch.dir / "there-is-none.yaml")

    def test_refusals__settings_that_do_not_go_together(self):
        self.refused(
            2,
            [r"yaml:\d+:\d+: global_batch_size = 15", r"1 × 2; write a multiple of 2"],
            ranks=2,
            step_scheduler={"global_batch_size": 15},
        )
        self.refused(
            2,
            [r"yaml:\d+:\d+: distributed\.dp_size = 4, and the job has 2 ranks"],
            ranks=2,
            distributed={"dp_size": 4},
        )
        self.refused(
            2,
            [r"yaml:\d+:\d+: dp_replicate_size = 4 does not divide 2 ranks"],
            ranks=2,
            distributed={"dp_replicate_size": 4},
        )
        self.refused(
            2,
            [r"yaml:\d+:\d+: distributed\.tp_size = 2", "data parallelism only"],
            distributed={"tp_size": 2},
        )
        self.refused(
            2,
            [r"yaml:\d+:\d+: gradients are reduced in float32"],
            distributed={"mp_policy.reduce_dtype": "bfloat16"},
        )
        self.refused(2, r"names no model", ranks=2, model={"pretrained_model_name_or_path": None})

    # ---- ranks that do not agree -------------------------------------------------------------------------

    def mpmd(self, first, second):
        command = runs.mpi_command(1, runs.PROGRAM, "train", first) + [
            ":",
            "-np",
            "1",
            runs.PROGRAM,
            "train",
            str(second),
        ]
        return runs.Job(command).end()

    def disagree(self, words, **changes):
        run_dir = self.scratch.fresh()
        first, second = self.scratch.recipe(run_dir, "first"), self.scratch.recipe(
            run_dir, "second", **changes
        )
        result = self.mpmd(first, second)
        self.ends(result, 2)
        self.one_message(result, r"\[rank 1\] error: rank 1 ", *words)
        self.assertFalse(run_dir.exists(), "a run directory was made")

    def test_refusals__ranks_with_other_meshes(self):
        run_dir = self.scratch.fresh()
        result = self.mpmd(
            self.scratch.recipe(run_dir, "first"),
            self.scratch.recipe(run_dir, "second", distributed={"strategy": "ddp"}),
        )
        self.ends(result, 2)
        self.one_message(result, "ranks 0 and 1 were given different meshes", "dp_shard 2 and 1")

    def test_refusals__ranks_with_other_programs(self):
        """The operator is named at which the two would part."""
        self.disagree(
            [
                "compiled another program than rank 0",
                "its step has 16 micro-batches of 64 tokens",
                r"rank 0 has `.*` where rank 1 has `[a-z_]+ layer -?\d+ of \d+ bytes in micro-batch \d+`",
            ],
            step_scheduler={"global_batch_size": 32},
        )
        self.disagree(
            ["compiled another program than rank 0", r"rank 1 has `.*`"],
            step_scheduler={"local_batch_size": 2},
        )

    def test_refusals__ranks_with_other_recipes(self):
        """What stands in no program: a learning rate, a seed."""
        self.disagree(
            ["read another recipe", r"rank 0 has `lr: 0\.005` where rank 1 has `lr: 0\.01`"],
            optimizer={"lr": 0.01},
        )
        self.disagree(["read another recipe", r"seed: 8"], rng={"seed": 8})
        self.disagree(
            ["read another recipe", r"rank 1 has `betas: \[0\.9, 0\.99\]`"], optimizer={"betas": [0.9, 0.99]}
        )

    def test_refusals__one_rank_alone_is_refused(self):
        """A typing error in the recipe of one rank: the others wait for it, and not for ever."""
        run_dir = self.scratch.fresh()
        result = self.mpmd(
            self.scratch.recipe(run_dir, "good"), self.text(lambda t: t.replace("max_steps", "max_step"))
        )
        self.ends(result, 2)
        self.one_message(result, r"\[rank 1\] error: .*unknown key \"max_step\"")


if __name__ == "__main__":
    runs.main()
