"""The peers of bench/run.sh.  A peer is a class in PEERS; pairs.py asks it for

    NAME, MAX_NORM       what --peer calls it; the norm at which it clips gradients, 0: none (ours alike)
    CEILING              what its ceiling() is called
    FIRST_ROUND          whether ways are tried before the pairs: for the fastest, and for warm file caches
    refusal(o)           what of the command line does not go with it, or None
    Peer(b)              b: pairs.Bench.  Ends with exit code 4 and a sentence where something is missing
    prepare()            what it needs in the work folder
    version()            itself, as the conditions name it
    ways()               what it can do on this machine; the pairs take the fastest.  Empty: too little memory
    describe(way)        for people
    key(way)             for --json
    fp32(way)            whether it computes in fp32
    may_fail(way)        whether a failure in the first round means: not on this machine
    command(way, steps)  a run; prints `step 1/…` at the end of a step and {"seconds", "loss", …} at last
    ceiling()            GFLOP/s of a matrix product"""
import hashlib, json, os, shutil, subprocess, sys

import fits, llmc_files, shapes

HERE = os.path.dirname(os.path.abspath(__file__))


def missing(text):
    print(f"bench: {text}", file=sys.stderr)
    sys.exit(4)


class Torch:
    """PyTorch + transformers in the Python that AM_TORCH_PYTHON names: bench/peer_torch.py"""
    NAME, MAX_NORM, FIRST_ROUND = "torch", 1.0, True
    CEILING = "torch's product ceiling (2048×1024×4096, %s, best)"
    SCRIPT = os.path.join(HERE, "peer_torch.py")
    WAYS = {"fp32": "fp32", "autocast": "bf16 autocast over fp32 weights",
            "master": "bf16 weights, fp32 master copy"}
    ISAS = {  # what holds PyTorch's kernels, oneDNN's and MKL's to an instruction set
        "avx2": dict(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2", DNNL_MAX_CPU_ISA="AVX2",
                     MKL_ENABLE_INSTRUCTIONS="AVX2"),
        "avx512": dict(ATEN_CPU_CAPABILITY="avx512", ONEDNN_MAX_CPU_ISA="AVX512_CORE",
                       DNNL_MAX_CPU_ISA="AVX512_CORE", MKL_ENABLE_INSTRUCTIONS="AVX512"),
    }

    @staticmethod
    def refusal(o):
        return None

    def __init__(self, b):
        self.b, self.python = b, os.environ.get("AM_TORCH_PYTHON") or "python3"
        b.env.update(self.ISAS.get(b.o.isa, {}))
        # without bf16 instructions PyTorch's bf16 product is a loop of plain C, minutes long
        self.ceiling_dtype = "fp32" if b.o.isa == "avx2" else b.o.dtype
        asked = [self.python, "-c", "import torch, transformers"]
        if not shutil.which(self.python) or subprocess.run(asked, capture_output=True).returncode != 0:
            missing(f"{self.python} has no torch and transformers, which --peer torch measures beside: set "
                    "AM_TORCH_PYTHON to a Python that has both, or leave --peer out")

    def prepare(self):
        """transformers reads the model as it is"""

    def version(self):
        return self.ask("version")

    def ask(self, *arguments):
        return self.b.ask(self.python, self.SCRIPT, *arguments, "--threads", str(self.b.o.threads))

    def ceiling(self):
        return json.loads(self.ask("ceiling", "--dtype", self.ceiling_dtype))["gflops"]

    def ways(self):
        """(way, compiled) that this machine has the memory for, with and without torch.compile"""
        o, fit, free = self.b.o, [], fits.available()
        for way in [o.way] if o.way else ["fp32"] if o.dtype == "fp32" else ["autocast", "master", "fp32"]:
            need = fits.torch_bytes(self.b.config, self.b.parameters, way, o.seq, o.recompute)
            if self.b.has_room(self.WAYS[way], need, free):
                fit.append(way)
        if o.compile and not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
            self.b.say("peer, torch.compile: not run: it needs a C++ compiler (g++, clang++, CXX): there is "
                       "none")
            o.compile = False
        return [(way, compiled) for compiled in ([False, True] if o.compile else [False]) for way in fit]

    def describe(self, way):
        return f"{'torch.compile, ' if way[1] else ''}{self.WAYS[way[0]]}"

    def key(self, way):
        return ("compiled " if way[1] else "") + way[0]

    def fp32(self, way):
        return way[0] == "fp32"

    def may_fail(self, way):
        """torch.compile does not run everywhere"""
        return way[1]

    def command(self, way, steps):
        o = self.b.o
        return [self.python, self.SCRIPT, "train", "--model", self.b.path("model"),
                "--rows", self.b.path("rows.json"), "--way", way[0], "--steps", str(steps),
                "--threads", str(o.threads), *["--recompute"] * o.recompute, *["--compile"] * way[1]]


class Llmc:
    """llm.c's CPU program (train_gpt2.c in the folder that --llmc names), built in the work folder with the
    flags of its Makefile around bench/peer_llmc.c: fp32, GPT-2"""
    NAME, MAX_NORM, FIRST_ROUND = "llmc", 0, False
    CEILING = "our product ceiling (2048×1024×4096, %s, best)"
    FLAGS = ["-Ofast", "-fopenmp", "-DOMP", "-Wno-unused-result", "-Wno-ignored-pragmas",
             "-Wno-unknown-attributes"]
    ISAS = {None: "native", "avx2": "x86-64-v3", "avx512": "x86-64-v4"}  # -march=
    ceiling_dtype = "fp32"

    @staticmethod
    def refusal(o):
        if not o.llmc:
            return "--peer llmc needs the folder of llm.c's sources: --llmc DIR"
        if not os.path.isfile(os.path.join(o.llmc, "train_gpt2.c")):
            return f"--llmc {o.llmc}: no train_gpt2.c in it"
        if o.dtype != "fp32":
            return f"llm.c's CPU program computes in fp32: --dtype fp32, not {o.dtype}"
        if o.recompute or o.compile or o.way:
            return "--recompute, --compile and --way go with --peer torch"
        config = shapes.read_config(o.model, o.shape)
        if "n_positions" in config and o.seq > config["n_positions"]:
            return f"--seq {o.seq}: the model has {config['n_positions']} positions"
        return llmc_files.refusal(config)

    def __init__(self, b):
        self.b, self.program, self.cc = b, b.path("peer_llmc"), os.environ.get("CC") or "cc"
        if shutil.which(self.cc) is None:
            missing(f"--peer llmc builds llm.c's program: there is no compiler {self.cc} (CC names another)")
        self.flags = [*self.FLAGS, "-march=" + self.ISAS[b.o.isa]]
        self.source = os.path.abspath(os.path.join(b.o.llmc, "train_gpt2.c"))

    def prepare(self):
        done = subprocess.run([self.cc, *self.flags, f'-DLLMC_TRAIN_GPT2="{self.source}"',
                               os.path.join(HERE, "peer_llmc.c"), "-o", self.program, "-lm"],
                              capture_output=True, text=True)
        if done.returncode != 0:
            missing(f"{self.cc} does not build {self.source}:\n{done.stderr[-2000:]}")
        try:
            llmc_files.write_model(self.b.path("model"), self.b.path("model.bin"))
        except ValueError as wrong:
            missing(str(wrong))
        with open(self.b.path("rows.json"), encoding="utf-8") as f:
            llmc_files.write_rows(json.load(f), self.b.path("rows.bin"))

    def version(self):
        with open(self.source, "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()[:12]
        said = subprocess.run([self.cc, "--version"], capture_output=True, text=True).stdout.splitlines()
        flags = " ".join([*self.flags[:2], self.flags[-1]])
        return f"llm.c's train_gpt2.c (sha256 {digest}…), {said[0] if said else self.cc}, {flags}"

    def ceiling(self):
        told = json.loads(self.b.ask(self.b.o.program, "bench", "gemm", "--dtype", "float32", "--json"))
        return told["flops_per_second"] / 1e9

    def ways(self):
        need = fits.llmc_bytes(self.b.config, self.b.parameters, self.b.o.seq)
        return ["fp32"] if self.b.has_room("fp32", need, fits.available()) else []

    def describe(self, way):
        return way

    key = describe

    def fp32(self, _):
        return True

    def may_fail(self, _):
        return False

    def command(self, _, steps):
        return [self.program, self.b.path("model.bin"), self.b.path("rows.bin"), str(steps),
                str(self.b.o.seq)]


PEERS = {peer.NAME: peer for peer in (Torch, Llmc)}
