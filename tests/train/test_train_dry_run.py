#!/usr/bin/env python3
"""The dry run compiles what the run executes: it prints, byte for byte, the program that rank 0 of a run with
as many ranks wrote down; and it needs no MPI, no weights and no data, so that 70 billion parameters on 512
ranks are looked at on a laptop.
"""

import json
import os
import re
import subprocess
import tempfile
import time

import runs

SECONDS, KILOBYTES = 2.0, 200_000


def measured(*arguments, env=None):
    """(exit code, stdout, seconds, peak resident kB) of one process of automodel."""
    with tempfile.TemporaryFile("w+") as out:
        begin = time.monotonic()
        process = subprocess.Popen(
            [runs.PROGRAM, *map(str, arguments)],
            stdout=out,
            cwd=runs.SOURCE,
            env={**os.environ, **(env or {})},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begin
        out.seek(0)
        return process.returncode, out.read(), seconds, usage.ru_maxrss


class DryRun(runs.Case):
    @classmethod
    def setUpClass(cls):
        cls.scratch = runs.Scratch()

    @classmethod
    def tearDownClass(cls):
        cls.scratch.close()

    def dry(self, recipe, *arguments):
        result = runs.run(0, "train", recipe, "--dry-run", *arguments)
        self.ends(result, 0)
        return result.out

    def test_dry_run__prints_the_program_of_the_run(self):
        layouts = [
            (1, 16, {"strategy": "ddp"}, {}),
            (2, 2, {"strategy": "ddp", "recompute": "full"}, {}),
            (4, 1, {"strategy": "fsdp2", "overlap": False}, {}),
            (
                4,
                2,
                {"strategy": "fsdp2", "dp_replicate_size": 2, "reshard_after_forward": False},
                {"freeze_config": {"patterns": ["*mlp*"]}},
            ),
            (2, 4, {"strategy": "fsdp2", "defer_fsdp_grad_sync": False}, {"model": {"torch_dtype": "bf16"}}),
        ]
        for ranks, local, distributed, changes in layouts:
            what = f"{ranks} ranks, {distributed}"
            run_dir = self.scratch.fresh()
            recipe = self.scratch.recipe(
                run_dir,
                distributed=distributed,
                step_scheduler={"local_batch_size": local, "max_steps": 1},
                **changes,
            )
            before = self.dry(recipe, "--ranks", ranks, "--rank", 0)
            self.ends(runs.run(ranks, "train", recipe), 0)
            self.assertTrue(
                (run_dir / "program.txt").read_text() == before,
                f"{what}: program.txt is not what the dry run printed",
            )
            for rank in range(
                1, ranks
            ):  # data parallel: one program for all but for where their shards begin
                other = self.dry(recipe, "--ranks", ranks, "--rank", rank)
                self.assertTrue(
                    re.sub(r"\+\d+", "", other) == re.sub(r"\+\d+", "", before),
                    f"{what}: rank {rank}",
                )
            # and the figures are those of run.json
            plan = json.loads((run_dir / "run.json").read_text())["plan"]
            first, *last = json.loads(self.dry(recipe, "--ranks", ranks, "--json"))
            for figures in [first, *last]:
                for key in ("bytes", "flops_per_step", "messages_per_step", "bytes_sent_per_step", "hash"):
                    self.assertEqual(figures[key], plan[key], f"{what}: {key}")

    def test_dry_run__another_recipe_is_another_program(self):
        """The comparison above can fail."""
        recipe = self.scratch.recipe(self.scratch.fresh(), step_scheduler={"local_batch_size": 4})
        base = self.dry(recipe, "--ranks", 4, "--rank", 0)
        for change in (
            "--distributed.recompute=full",
            "--step_scheduler.local_batch_size=2",
            "--distributed.dp_replicate_size=2",
            "--packed_sequence.packed_sequence_size=48",
        ):
            self.assertNotEqual(self.dry(recipe, "--ranks", 4, "--rank", 0, change), base, change)

    def test_dry_run__70_billion_parameters(self):
        """Of 64 and of 512 ranks the first and the last; the environment looks like a broken MPI job, which a
        dry run must not notice."""
        recipe = "configs/llama3_70b_sft.yaml"
        no_mpi = {
            "OMPI_COMM_WORLD_SIZE": "512",
            "OMPI_COMM_WORLD_RANK": "0",
            "OMPI_MCA_pml": "there_is_none",
            "OMPI_MCA_btl": "there_is_none",
        }
        worst_seconds = worst_kilobytes = 0
        for ranks, batch in ((64, 128), (512, 512)):
            figures = []
            for rank in (0, ranks - 1):
                code, out, seconds, kilobytes = measured(
                    "train",
                    recipe,
                    "--dry-run",
                    "--ranks",
                    ranks,
                    "--rank",
                    rank,
                    f"--step_scheduler.global_batch_size={batch}",
                    env=no_mpi,
                )
                self.assertEqual(code, 0)
                self.assertLess(seconds, SECONDS)
                self.assertLess(kilobytes, KILOBYTES)
                worst_seconds, worst_kilobytes = max(worst_seconds, seconds), max(worst_kilobytes, kilobytes)
                self.assertIn("layer 79", out)
                figures.append(out)
            self.assertEqual(figures[0], figures[1])
            code, out, _, _ = measured(
                "train",
                recipe,
                "--dry-run",
                "--ranks",
                ranks,
                "--json",
                f"--step_scheduler.global_batch_size={batch}",
                env=no_mpi,
            )
            self.assertEqual(code, 0)
            for line in json.loads(out):
                # master, m and v in fp32, cut over the ranks, of 80·(2·8192² + 2·8192·1024 + 3·8192·28672 + 2·8192)
                # + 2·128256·8192 + 8192 parameters; padding is below 256 elements a tensor and rank
                exact = 3 * 4 * 70_553_706_496 / ranks
                self.assertGreaterEqual(line["regions"]["store"], exact)
                self.assertLess(line["regions"]["store"], exact + 3 * 4 * 256 * 1000)
        runs.note(f"{worst_seconds:.2f} s and {worst_kilobytes / 1000:.0f} MB at most")

    def test_dry_run__refuses_what_the_run_refuses(self):
        for arguments, words in (
            (("--ranks", 3), "no multiple of"),
            (("--ranks", 2, "--rank", 2), "the job has 2 ranks"),
            (("--freeze_config.patterns=['*']",), "nothing to train"),
            (("--freeze_config.patterns=['*there_is_none*']",), "matches no parameter"),
        ):
            recipe = self.scratch.recipe(self.scratch.fresh())
            result = runs.run(0, "train", recipe, "--dry-run", *arguments)
            self.ends(result, 2)
            self.one_message(result, words)

    def priced(self, ranks, *arguments):
        """Bytes of a rank of the 70B recipe."""
        recipe = runs.SOURCE / "configs" / "llama3_70b_sft.yaml"
        result = runs.run(0, "train", recipe, "--dry-run", "--json", "--ranks", ranks, *arguments)
        self.ends(result, 0)
        return json.loads(result.out)[-1]["host_bytes"]

    def refused(self, ranks, each, node_bytes, *arguments):
        """The offer in the refusal, as (arguments of automodel, those of sbatch) for each alternative."""
        result = runs.run(
            0,
            "train",
            runs.SOURCE / "configs" / "llama3_70b_sft.yaml",
            "--dry-run",
            *("--ranks", ranks, "--ranks-per-node", each, "--memory-per-node", node_bytes),
            *arguments,
        )
        self.ends(result, 4)
        self.one_message(result, "a rank needs", "it fits with")
        offer = re.search(r"it fits with (.*)", result.err).group(1)
        return [
            (re.findall(r"--[a-z_]+\.\S+", part), dict(re.findall(r"--(nodes|ntasks-per-node)=(\d+)", part)))
            for part in offer.split(", or with ")
        ]

    def test_dry_run__a_node_is_full_at_its_last_byte(self):
        recipe = runs.SOURCE / "configs" / "llama3_70b_sft.yaml"
        need = 8 * self.priced(64)
        for node, code in ((need, 0), (need - 1, 4)):
            result = runs.run(
                0, "train", recipe, "--dry-run", "--ranks", 64, "--ranks-per-node", 8, "--memory-per-node", node
            )
            self.ends(result, code)
        # what the plan says, and what lies beside it: staging of the rank's checkpoint shard, rows read ahead, the process
        plan = json.loads(
            runs.run(0, "train", recipe, "--dry-run", "--json", "--ranks", 64, "--checkpoint.is_async=false").out
        )[-1]
        store = plan["regions"]["store"]
        self.assertGreaterEqual(need // 8, plan["bytes"] + store + (64 << 20))
        self.assertLess(need // 8, plan["bytes"] + store + (80 << 20))

    def test_dry_run__what_is_offered_fits(self):
        """Every offer is followed."""
        for each, nodes, room, arguments in (
            (8, 8, 400_000_000_000, ()),
            (8, 8, 200_000_000_000, ()),
            (8, 2, 500_000_000_000, ()),
            (8, 2, 3_000_000_000_000, ("--distributed.strategy=ddp",)),
            (4, 8, 150_000_000_000, ("--distributed.recompute=none", "--distributed.defer_fsdp_grad_sync=true")),
        ):
            offers = self.refused(nodes * each, each, room, *arguments)
            self.assertGreater(len(offers), 0)
            for settings, allocation in offers:
                n, e = int(allocation.get("nodes", nodes)), int(allocation.get("ntasks-per-node", each))
                self.assertLessEqual(e * self.priced(n * e, *arguments, *settings), room, (settings, allocation))

    def test_dry_run__nothing_fits(self):
        result = runs.run(
            0,
            "train",
            runs.SOURCE / "configs" / "llama3_70b_sft.yaml",
            "--dry-run",
            *("--ranks", 64, "--ranks-per-node", 8, "--memory-per-node", "20GB"),
        )
        self.ends(result, 4)
        self.one_message(result, "no setting or number of nodes makes it fit")


if __name__ == "__main__":
    runs.main()
