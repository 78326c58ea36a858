"""The border of the command line: a wrong line exits with 2 and says which value of which knob is wrong.

No traceback, and nothing of this kind needs a base to be loaded first.
"""

import json
import re

import pytest
import transformers
from click.testing import CliRunner
from shelf import save_adapter
from tiny_base import rows, save_rows, save_tiny_base

from ssft.cli.main import cli
from ssft.streams.config import StreamConfig

MANY = "9" * 6000
HALF = "\ud800"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, an adapter over it, rows, and files of the kinds that no command can use."""
    folder = tmp_path_factory.mktemp("wrong")
    base = save_tiny_base(folder / "base")
    save_adapter(folder / "adapter", base, streams=StreamConfig(2, 2))
    save_rows(folder / "rows.jsonl", rows(12))
    texts = {
        "digits": f'{{"prompt": "a", "completion": "b", "category": {MANY}}}\n',
        "half": '{"prompt": "a \\ud800", "completion": "b"}\n',
        "twice": '{"prompt": "a", "completion": "b", "completion": "c"}\n',
        "deep": "[" * 100_000 + "\n",
        "list": "[1, 2]\n",
        "cut": '{"prompt": "a"\n',
        "number": '{"prompt": 5, "completion": "b"}\n',
        "empty": "\n",
        "columns": '{"question": "a", "answer": "b"}\n',
        "reference": '{"prompt": "a", "completion": "b", "references": "b"}\n',
    }
    for name, text in texts.items():
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "latin.jsonl").write_bytes('{"prompt": "é", "completion": "b"}\n'.encode("latin-1"))
    (folder / "broken.jsonl.gz").write_bytes(b"no gzip at all")
    recipes = {
        "digits": f"training:\n  max_steps: {MANY}\n",
        "tag": "training:\n  max_steps: !!int many\n",
        "nul": 'data:\n  train: "a\\0b"\n',
        "half": 'base: "\\ud800"\n',
        "twice": "base: a\nbase: b\n",
        "list": "- base\n",
        "text": "training: fast\n",
        "python": "base: !!python/object/apply:os.getcwd []\n",
        "deep": "base: " + "[" * 5000 + "\n",
    }
    for name, text in recipes.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "latin.yaml").write_bytes("base: é\n".encode("latin-1"))
    (folder / "result.json").write_text(json.dumps({"kind": "verify"}))
    (folder / "slip.json").write_text('{"properties": {"a": {"typ": "string"}}}')
    (folder / "never.json").write_text('{"type": "integer", "minimum": 5, "maximum": 3}')
    (folder / "a.lark").write_text('start: "a"')
    (folder / "digits.json").write_text(f'{{"kind": {MANY}}}')
    return folder


TRAIN = ["train", "quickstart", "base=base", "data.train=rows.jsonl", "training.num_msa_layers=2"]
DECODE = ["generate", "adapter", "--base", "base", "--prompt", "say"]

SETTINGS = {
    "training.per_device_train_batch_size=0": "training.per_device_train_batch_size=0, expected a whole number from 1",
    "training.per_device_eval_batch_size=-1": "training.per_device_eval_batch_size=-1, expected a whole number from 1",
    "training.gradient_accumulation_steps=0": "training.gradient_accumulation_steps=0, expected a whole number from 1",
    "training.learning_rate=-1": "training.learning_rate=-1, expected a number from 0",
    "training.learning_rate=fast": "training.learning_rate='fast', expected a number from 0",
    "training.learning_rate=.inf": "training.learning_rate=inf, expected a number from 0",
    "training.learning_rate=.nan": "training.learning_rate='.nan', expected a number from 0",
    "training.stream_learning_rate=-1": "training.stream_learning_rate=-1, expected a number above 0",
    "training.stream_loss_weight=-0.1": "training.stream_loss_weight=-0.1, expected a number from 0",
    "training.stream_loss_warmup_ratio=2": "training.stream_loss_warmup_ratio=2, expected a number from 0 to 1",
    "training.stream_supervision=both": "training.stream_supervision='both', expected 'reference' | 'main' | ",
    "training.stream_loss_decay=0": "training.stream_loss_decay=0, expected a number above 0, at most 1",
    "training.stream_loss_decay=1.5": "training.stream_loss_decay=1.5, expected a number above 0, at most 1",
    "training.stream_loss_weight_end=-1": "training.stream_loss_weight_end=-1, expected a number from 0",
    "training.stream_gradient=halved": "training.stream_gradient='halved', expected 'summed' | 'scaled' | 'projected'",
    "training.main_supervision=main": "training.main_supervision='main', expected 'reference' | 'start' | 'both'",
    "training.num_streams=0": "num_streams=0: γ must lie between 1 and 16",
    "training.num_streams=2.5": "training.num_streams=2.5, expected int",
    "training.num_msa_layers=0": "num_msa_layers=0: streams need at least one layer",
    "training.identifier=name": "identifier='name': expected one of",
    "training.mode=fast": "mode='fast': expected one of",
    "training.projection_rank=-1": "projection_rank=-1",
    "training.prune_head_rank=-1": "prune_head_rank=-1: θ is 0",
    "training.prune_head_rank=2.5": "training.prune_head_rank=2.5, expected int",
    "training.prune_loss_weight=-1": "training.prune_loss_weight=-1, expected a number from 0",
    "training.weight_decay=-1": "training.weight_decay=-1, expected a number from 0",
    "training.max_steps=0": "training.max_steps=0, expected a whole number from 1, or -1",
    "training.max_steps=-5": "training.max_steps=-5, expected a whole number from 1, or -1",
    "training.num_train_epochs=0": "training.num_train_epochs=0, expected a number above 0",
    "training.num_train_epochs=-1": "training.num_train_epochs=-1, expected a number above 0",
    "training.warmup_steps=-1": "training.warmup_steps=-1, expected a number from 0",
    "training.logging_steps=0": "training.logging_steps=0, expected a number above 0",
    "training.save_steps=0": "training.save_steps=0, expected a number above 0",
    "training.eval_steps=-2": "training.eval_steps=-2, expected a number above 0",
    "training.save_total_limit=0": "training.save_total_limit=0, expected a whole number from 1",
    "training.seed=-1": "training.seed=-1, expected a whole number from 0 to 4294967295",
    "training.seed=4294967296": "training.seed=4294967296, expected a whole number from 0 to 4294967295",
    "training.seed=one": "training.seed='one', expected a whole number from 0",
    "training.max_length=0": "training.max_length=0, expected a whole number from 1",
    "training.adam_beta1=1.5": "training.adam_beta1=1.5, expected a number from 0, below 1",
    "training.max_grad_norm=-1": "training.max_grad_norm=-1, expected a number from 0",
    "training.label_smoothing_factor=2": "training.label_smoothing_factor=2, expected a number from 0, below 1",
    "training.neftune_noise_alpha=-5": "training.neftune_noise_alpha=-5, expected a number above 0",
    "training.dataloader_num_workers=-1": "training.dataloader_num_workers=-1, expected a whole number from 0",
    "training.dataloader_prefetch_factor=0": "training.dataloader_prefetch_factor=0, expected a whole number from 1",
    "training.pad_to_multiple_of=0": "training.pad_to_multiple_of=0, expected a whole number from 1, below 2^31",
    "training.report_to=typo": "training.report_to='typo', expected none, all or names of azure_ml",
    "training.report_to=[none, typo]": "training.report_to=['none', 'typo'], expected none, all or names of azure_ml",
    "training.report_to=none_of_those": "training.report_to='none_of_those', expected",
    "training.train_sampling_strategy=typo": "training.train_sampling_strategy='typo', expected 'random'",
    "training.lr_scheduler_type=typo": "training.lr_scheduler_type='typo', expected 'linear'",
    "training.optim=typo": "training.optim='typo', expected 'adamw_torch'",
    "training.save_strategy=typo": "training.save_strategy='typo', expected",
    "training.eval_strategy=typo": "training.eval_strategy='typo', expected",
    "training.loss_type=typo": "training.loss_type='typo', expected 'nll'",
    "training.log_level=typo": "training.log_level='typo', expected 'detail'",
    "training.truncation_mode=typo": "training.truncation_mode='typo', expected 'keep_end'",
    "training.bf16=maybe": "training.bf16='maybe', expected bool",
    "training.packing=true": "packing/padding_free put several documents into one row",
    "training.output_dir=x": "training.output_dir cannot be set in a recipe",
    f"training.max_steps={MANY}": "training.max_steps='9999",
    f"training.logging_steps=1{'0' * 400}": "training.logging_steps=1000",
    "lora.lora_dropout=2": "lora.lora_dropout=2, expected a number from 0, below 1",
    "lora.lora_dropout=-0.1": "lora.lora_dropout=-0.1, expected a number from 0, below 1",
    "lora.r=0": "lora.r=0, expected a whole number from 1 to 65536",
    "lora.r=2.5": "lora.r=2.5, expected a whole number from 1 to 65536",
    "lora.r=many": "lora.r='many', expected a whole number from 1 to 65536",
    "lora.lora_alpha=-8": "lora.lora_alpha=-8, expected a whole number from 1",
    "lora.bias=some": "lora.bias='some', expected 'none'",
    "lora.init_lora_weights=typo": "lora.init_lora_weights='typo', expected",
    "training.dataloader_persistent_workers=true": "set training.dataloader_num_workers to at least 1",
    "training.lr_scheduler_kwargs=typo": "training.lr_scheduler_kwargs='typo', expected dict",
    "training.include_num_input_tokens_seen=typo": "training.include_num_input_tokens_seen='typo', expected",
    f"training.per_device_train_batch_size={'9' * 30}": "expected a whole number from 1, below 2^31",
    f"lora.r={'9' * 30}": "expected a whole number from 1 to 65536",
    "tree.max_nodes=0": "tree.max_nodes=0: must lie between 1 and 512",
    "tree.top_k=0": "tree.top_k=0: at least one token per stream",
    "tree.top_k=2.5": "tree.top_k=2.5, expected int",
    "tree.kind=star": "tree.kind='star': expected one of",
    "tree.max_depth=-1": "tree.max_depth=-1",
    "tree.prune_below=2": "tree.prune_below=2, expected a number from 0, below 1",
    "tree.prune_below=0.1": "without a prune head nobody says which branches are likely",
    "tree.prune_keep=-1": "tree.prune_keep=-1: 0 (all nodes) or a positive number",
    "prune_head.only=true": "unknown key prune_head.only; did you mean 'method'?",
    "prune_head.theta=8": "unknown key prune_head.theta; did you mean 'training.prune_head_rank'?",
    "method=prune_head": "method=prune_head trains a prune head for an adapter, and none is named",
    "data.validation_fraction=1.5": "data.validation_fraction=1.5: a share between 0 and 1",
    "data.augment=2": "data.augment=2.0: a share of the training rows",
    "data.max_train_rows=-1": "data.max_train_rows=-1",
    "data.train=nowhere.jsonl": "nowhere.jsonl: no such file",
    f"data.train={'a' * 5000}.jsonl": "no such file",
    "data.train=digits.jsonl": "digits.jsonl, line 1: a number of 6,000 digits",
    "data.train=half.jsonl": r"half.jsonl, line 1: \ud800 is half a surrogate pair",
    "data.train=twice.jsonl": "twice.jsonl, line 1: key 'completion' stands twice",
    "data.train=deep.jsonl": "deep.jsonl, line 1: brackets stand too deep",
    "data.train=list.jsonl": "list.jsonl, line 1: expected a JSON object",
    "data.train=cut.jsonl": "cut.jsonl, line 1: invalid JSON",
    "data.train=number.jsonl": "number.jsonl, line 1: `prompt` must be a text",
    "data.train=empty.jsonl": "empty.jsonl is empty",
    "data.train=reference.jsonl": "reference.jsonl, line 1: `references` must be a list",
    "data.train=latin.jsonl": "latin.jsonl, after line 0: not UTF-8 text",
    "data.train=broken.jsonl.gz": "broken.jsonl.gz, after line 0: truncated or damaged gzip",
    "data.train=.": "truncated or damaged gzip data",
    "base=": "base '' is neither an alias",
    f"base={'b' * 5000}": "is neither an alias",
    "dtype=int8": "dtype='int8', expected 'auto'",
    "quantization=8bit": "quantization='8bit', expected 'none' | '4bit'",
    "method=magic": "method='magic', expected 'streams'",
    "method=medusa": "has no effect with method=medusa",
    "name=../x": "name='../x' names a folder",
    "name=a b": "name='a b' names a folder",
    "adapter=nowhere": "adapter 'nowhere' is no folder",
    "training.lr=1": "unknown key training.lr; did you mean 'training.learning_rate'?",
    "lr=1": "unknown key lr; did you mean 'training.learning_rate'?",
    "training.gamma=3": "unknown key training.gamma; did you mean 'training.num_streams'?",
    "epochs=3": "unknown key epochs; did you mean 'training.num_train_epochs'?",
    "training.batch_size=3": "did you mean 'training.per_device_train_batch_size'?",
    "lora.rank=3": "unknown key lora.rank; did you mean 'lora.r'?",
    "lora.alpha=3": "unknown key lora.alpha; did you mean 'lora.lora_alpha'?",
    "training.temperature=1": "unknown key training.temperature; sections are data, lora",
    "tree.top_p=1": "unknown key tree.top_p; sections are data, lora",
    "training.num_stream=3": "did you mean 'training.num_streams'?",
    "no equals": "override 'no equals': write key=value",
    "=5": "override '=5': write key=value",
    "[[[[": "write key=value",
    f"base={'[' * 5000}": "is neither an alias",
}
LINES = {
    **{f"train {setting[:70]}": ([*TRAIN, setting], told) for setting, told in SETTINGS.items()},
    "train, NUL": ([*TRAIN, "data.train=a\0b"], r"'data.train=a\x00b' holds a character that neither"),
    "train, half a pair": ([*TRAIN, f"name={HALF}"], r"'name=\ud800' holds a character that neither"),
    "train, device": ([*TRAIN, "--device", "xyz"], "device 'xyz' is unknown"),
    "train, device empty": ([*TRAIN, "--device", ""], "device '' is unknown"),
    "train, threads": ([*TRAIN, "--threads", "0"], "0 is not in the range"),
    "train, threads many": ([*TRAIN, "--threads", "100000000000"], "is not in the range 1<=x<=1024"),
    "train, output": ([*TRAIN, "--ouput", "x"], "No such option '--ouput'; did you mean '--output'?"),
    "train, recipe": (["train", "quickstrt"], "did you mean 'quickstart'?"),
    "train, recipe long": (["train", "a" * 5000], "is neither a shipped recipe nor a YAML file"),
    "train, recipe folder": (["train", "."], "'.' is neither a shipped recipe nor a YAML file"),
    "train, recipe digits": (["train", "digits.yaml"], "digits.yaml, line 2: invalid YAML: '9999"),
    "train, recipe tag": (["train", "tag.yaml"], "tag.yaml, line 2: invalid YAML: 'many' is no int"),
    "train, recipe NUL": (["train", "nul.yaml"], r"data.train='a\x00b' holds the character NUL"),
    "train, recipe half": (["train", "half.yaml"], r"base='\ud800', expected str"),
    "train, recipe twice": (["train", "twice.yaml"], "twice.yaml, line 2: invalid YAML: duplicate key 'base'"),
    "train, recipe list": (["train", "list.yaml"], "list.yaml: a recipe is a mapping"),
    "train, recipe text": (["train", "text.yaml"], "section training is 'fast'"),
    "train, recipe python": (["train", "python.yaml"], "python.yaml, line 1: invalid YAML"),
    "train, recipe deep": (["train", "deep.yaml"], "deep.yaml"),
    "train, recipe latin": (["train", "latin.yaml"], "latin.yaml: cannot be read"),
    "train, recipe is data": (["train", "rows.jsonl"], "rows.jsonl"),
    "bench train": (["bench", "train", "quickstart", "base=base", "lora.r=0"], "lora.r=0, expected a whole number"),
    "bench train, batches": (["bench", "train", "quickstart", "--batches", "0"], "0 is not in the range x>=1"),
    "bench train, device": (
        ["bench", "train", "quickstart", "base=base", "data.train=rows.jsonl", "--device", "xyz"],
        "device 'xyz' is unknown"),
    "generate, limit": ([*DECODE, "--max-new-tokens", "0"], "0 is not in the range x>=1"),
    "generate, limit text": ([*DECODE, "--max-new-tokens", "ten"], "'ten' is not a valid integer"),
    "generate, limit many": ([*DECODE, "--max-new-tokens", "9" * 30], "is too large; at most 2147483647"),
    "generate, limit digits": ([*DECODE, "--max-new-tokens", MANY], "is not a valid integer"),
    "generate, batch": ([*DECODE, "--batch-size", "-1"], "-1 is not in the range x>=1"),
    "generate, device": ([*DECODE, "--device", "xyz"], "device 'xyz' is unknown"),
    "generate, device absent": ([*DECODE, "--device", "mps:7"], "device 'mps:7' is not available here"),
    "generate, dtype": ([*DECODE, "--dtype", "int8"], "'int8' is not one of"),
    "generate, quantization": ([*DECODE, "--quantization", "8bit"], "'8bit' is not one of"),
    "generate, tree": ([*DECODE, "--tree", "max_nodes"], "--tree 'max_nodes': write key=value"),
    "generate, tree key": ([*DECODE, "--tree", "nodes=3"], "tree.nodes is unknown"),
    "generate, tree text": ([*DECODE, "--tree", "max_nodes=many"], "tree.max_nodes='many', expected int"),
    "generate, tree digits": ([*DECODE, "--tree", f"max_nodes={MANY}"], "tree.max_nodes='9999"),
    "generate, tree range": ([*DECODE, "--tree", "max_nodes=0"], "tree.max_nodes=0: must lie between"),
    "generate, tree fraction": ([*DECODE, "--tree", "top_k=2.5"], "tree.top_k=2.5, expected int"),
    "generate, tree chance": ([*DECODE, "--tree", "prune_below=1.5"], "tree.prune_below=1.5, expected a number from 0"),
    "generate, tree lookup": ([*DECODE, "--tree", "lookup=yes"], "tree.lookup='yes', expected bool"),
    "generate, tree lookup number": ([*DECODE, "--tree", "lookup=1"], "tree.lookup=1, expected bool"),
    "generate, temperature": ([*DECODE, "--temperature", "-1"], "temperature=-1.0, expected a number from 0.001 to"),
    "generate, no temperature": ([*DECODE, "--temperature", "0"], "temperature=0.0, expected a number from 0.001 to"),
    "generate, nan": ([*DECODE, "--temperature", "nan"], "temperature=nan, expected a number from 0.001 to 1000"),
    "generate, top-p of none": ([*DECODE, "--top-p", "0"], "top_p=0.0, expected a number above 0, at most 1"),
    "generate, top-p": ([*DECODE, "--top-p", "1.5"], "top_p=1.5, expected a number above 0, at most 1"),
    "generate, top-k": ([*DECODE, "--top-k", "0"], "top_k=0, expected a whole number from 1"),
    "generate, top-k part": ([*DECODE, "--top-k", "2.5"], "'2.5' is not a valid integer"),
    "generate, min-p": ([*DECODE, "--min-p", "-0.1"], "min_p=-0.1, expected a number above 0, at most 1"),
    "generate, penalty": ([*DECODE, "--repetition-penalty", "0"], "repetition_penalty=0.0, expected a number above 0"),
    "generate, presence": ([*DECODE, "--presence-penalty", "3"], "presence_penalty=3.0, expected a number from -2 to"),
    "generate, seed": ([*DECODE, "--seed", "-1"], "seed=-1, expected a whole number from 0, below 2^63"),
    "generate, schema": ([*DECODE, "--json-schema", "slip.json"], "has the key 'typ', which JSON Schema does not know"),
    "generate, schema cut": ([*DECODE, "--json-schema", "cut.jsonl"], "json_schema is no JSON (Expecting"),
    "generate, schema list": ([*DECODE, "--json-schema", "list.jsonl"], "json_schema is [1, 2], expected a JSON"),
    "generate, schema never": ([*DECODE, "--json-schema", "never.json"], "Unsatisfiable schema: minimum (5) is"),
    "generate, schema digits": ([*DECODE, "--json-schema", "digits.json"], "a number of 6,000 digits"),
    "generate, schema deep": ([*DECODE, "--json-schema", "deep.jsonl"], "brackets stand too deep"),
    "generate, schema twice": ([*DECODE, "--json-schema", "twice.jsonl"], "key 'completion' stands twice"),
    "generate, schema latin": ([*DECODE, "--json-schema", "latin.yaml"], "--json-schema latin.yaml: cannot be read as"),
    "generate, schema absent": ([*DECODE, "--json-schema", "nowhere.json"], "'nowhere.json' does not exist"),
    "generate, regex": ([*DECODE, "--regex", "(a"], "regex cannot be met: "),
    "generate, regex behind": ([*DECODE, "--regex", "(?<=a)b"], "look-around, including look-ahead and look-behind"),
    "generate, grammar": ([*DECODE, "--grammar", "rows.jsonl"], "grammar cannot be met: "),
    "generate, grammar empty": ([*DECODE, "--grammar", "empty.jsonl"], "grammar cannot be met: Empty grammar"),
    "generate, grammar absent": ([*DECODE, "--grammar", "nowhere"], "'nowhere' does not exist"),
    "generate, schema named so": ([*DECODE, "--schema", "a.json"], "'--schema'; did you mean '--json-schema'?"),
    "generate, logit bias": ([*DECODE, "--logit-bias", "a=1"], "'--logit-bias'; did you mean '--sequence-bias'?"),
    "generate, two forms": ([*DECODE, "--regex", "a", "--grammar", "a.lark"], "regex and grammar are given, but a"),
    "generate, bad words": ([*DECODE, "--bad-words", ""], "--bad-words is empty"),
    "generate, bias": ([*DECODE, "--sequence-bias", "word"], "--sequence-bias 'word': write TEXT=NUMBER"),
    "generate, bias word": ([*DECODE, "--sequence-bias", "=3"], "--sequence-bias '=3': write TEXT=NUMBER"),
    "generate, bias nan": ([*DECODE, "--sequence-bias", "a=nan"], "--sequence-bias 'a=nan': write TEXT=NUMBER"),
    "generate, no answer": ([*DECODE, "--num-return-sequences", "0"], "0 is not in the range x>=1"),
    "generate, answers": ([*DECODE, "--num-return-sequences", "2"], "without sampling all answers of a prompt are the"),
    "generate, answers JSON": (
        [*DECODE, "--num-return-sequences", "2", "--seed", "1", "--json"], "gives JSONL already; leave --json out"),
    "distill, nothing to answer": (["distill", "base", "--output", "own.jsonl"], "no prompts: give --data FILE"),
    "distill, both": (
        ["distill", "base", "--output", "own.jsonl", "--data", "rows.jsonl", "--questions", "3"],
        "--data has the questions already"),
    "distill, limit": (["distill", "base", "--output", "own.jsonl", "--limit", "3"], "--limit counts rows of a --data"),
    "distill, folder": (["distill", "base", "--output", "base", "--questions", "1"], "is a directory"),
    "distill, no output": (["distill", "base", "--questions", "1"], "Missing option '--output'"),
    "distill, no model": (["distill", "nowhere", "--output", "own.jsonl", "--questions", "1"], "nowhere"),
    "distill, question temperature": (
        ["distill", "base", "--output", "own.jsonl", "--questions", "1", "--question-temperature", "0"],
        "temperature=0.0, expected a number from 0.001 to 1000"),
    "distill, turns of prompts": (
        ["distill", "base", "--output", "own.jsonl", "--data", "rows.jsonl", "--turns", "2"],
        "row 1 has `prompt`, which has one turn, and --turns is 2"),
    "accelerate, no output": (["accelerate", "base"], "Missing option '--output'"),
    "accelerate, no time": (["accelerate", "base", "--output", "fast", "--minutes", "0"], "0 is not in the range x>0"),
    "accelerate, time": (["accelerate", "base", "--output", "fast", "--minutes", "long"], "'long' is not a valid"),
    "accelerate, limit": (["accelerate", "base", "--output", "fast", "--limit", "3"], "--limit counts rows"),
    "accelerate, folder": (
        ["accelerate", "base", "--output", "adapter"],
        "adapter exists and is not what `ssft accelerate` began; choose another --output"),
    "accelerate, key": (
        ["accelerate", "base", "training.steps=3", "--output", "fast"],
        "unknown key training.steps; did you mean 'training.max_steps'?"),
    "accelerate, adapter": (
        ["accelerate", "base", "--output", "fast", "--adapter", "nowhere"], "adapter 'nowhere' is no folder"),
    "distill, another's file": (
        ["distill", "base", "--output", "rows.jsonl", "--data", "rows.jsonl"],
        "rows.jsonl exists, and rows.jsonl.run, which `ssft distill` writes beside its rows, cannot be read"),
    "generate, no option": ([*DECODE, "--num-beams", "2"], "No such option '--num-beams'\n"),
    "generate, model": (["generate", "--model", "x"], "No such option '--model'; did you mean '--base'?"),
    "generate, max-tokens": ([*DECODE, "--max-tokens", "5"], "did you mean '--max-new-tokens'?"),
    "generate, no prompt": (["generate", "adapter"], "no prompt"),
    "generate, empty prompt": (["generate", "adapter", "--prompt", ""], "--prompt is empty"),
    "generate, NUL": (["generate", "a\0b", "--prompt", "x"], r"'a\x00b' holds a character"),
    "generate, half a pair": (["generate", "adapter", "--prompt", HALF], r"'\ud800' holds a character"),
    "generate, no adapter": (["generate", "nowhere", "--prompt", "x"], "adapter 'nowhere' is no folder"),
    "generate, long adapter": (["generate", "a" * 5000, "--prompt", "x"], "is no folder"),
    "generate, base": (["generate", "--base", "", "--prompt", "x"], "neither an adapter nor a base was given"),
    "generate, base unknown": (["generate", "--base", "nowhere", "--prompt", "x"], "base 'nowhere' is neither"),
    "generate, base long": (["generate", "--base", "b" * 5000, "--prompt", "x"], "is neither an alias"),
    "generate, merge of 4 bits": ([*DECODE, "--merge", "--quantization", "4bit"], "merge: 4-bit weights cannot hold"),
    "generate, data": (["generate", "adapter", "--data", "nowhere.jsonl"], "'nowhere.jsonl' does not exist"),
    "generate, data long": (["generate", "adapter", "--data", "a" * 5000], "does not exist"),
    "generate, data digits": (["generate", "adapter", "--data", "digits.jsonl"], "a number of 6,000 digits"),
    "generate, data half": (["generate", "adapter", "--data", "half.jsonl"], "half a surrogate pair"),
    "generate, data twice": (["generate", "adapter", "--data", "twice.jsonl"], "key 'completion' stands twice"),
    "generate, data deep": (["generate", "adapter", "--data", "deep.jsonl"], "brackets stand too deep"),
    "generate, rows": (["generate", "adapter", "--data", "rows.jsonl", "--limit", "0"], "0 is not in the range"),
    "generate, rows many": (["generate", "adapter", "--data", "rows.jsonl", "--limit", "9" * 30], "is too large"),
    "generate, output": ([*DECODE, "--output", "rows.jsonl/x"], "--output rows.jsonl/x: its folder cannot be made"),
    "generate, output folder": ([*DECODE, "--output", "base"], "base"),
    "generate, output long": ([*DECODE, "--output", "o" * 5000], "cannot be made (File name too long)"),
    "eval, metric": (["eval", "adapter", "--data", "rows.jsonl", "--metric", "blue"], "'blue' is not one of"),
    "eval, data": (["eval", "adapter"], "--data"),
    "eval, half": (["eval", "adapter", "--data", "half.jsonl"], "half a surrogate pair"),
    "verify, against": (["verify", "adapter", "--against", "gpt"], "'gpt' is not one of"),
    "verify, no adapter": (["verify", "nowhere"], "adapter 'nowhere' is no folder"),
    "bench, methods": (["bench", "adapter", "--methods", "streming"], "did you mean 'streaming'?"),
    "bench, temperature": (["bench", "adapter", "--temperature", "-1"], "temperature=-1.0, expected a number from"),
    "bench, schema": (["bench", "adapter", "--json-schema", "slip.json"], "has the key 'typ', which JSON Schema does"),
    "bench, two forms": (["bench", "adapter", "--regex", "a", "--grammar", "a.lark"], "regex and grammar are given"),
    "bench profile, regex": (["bench", "profile", "adapter", "--regex", "(a"], "regex cannot be met: "),
    "bench, rounds": (["bench", "adapter", "--rounds", "0"], "0 is not in the range"),
    "bench, seed": (["bench", "adapter", "--seed", "-1"], "-1 is not in the range"),
    "bench, seed many": (["bench", "adapter", "--seed", "9" * 30], "is too large"),
    "bench, both": (["bench", "adapter", "--data", "rows.jsonl", "--spec-bench", "rows.jsonl"], "give one of them"),
    "bench, compare": (["bench", "--compare", "result.json", "digits.json"], "result.json"),
    "bench, compare digits": (["bench", "--compare", "digits.json", "digits.json"], "a number of 6,000 digits"),
    "bench tasks, output": (["bench", "tasks", "adapter"], "--output"),
    "bench tasks, data": (["bench", "tasks", "adapter", "--data", "adpter=rows.jsonl", "--output", "o"], "did you"),
    "bench adapters, one": (["bench", "adapters", "adapter", "--rows", "1"], "--rows"),
    "bench profile, limit": (["bench", "profile", "adapter", "--limit", "x"], "'x' is not a valid integer"),
    "inspect": (["inspect", "nowhere"], "adapter 'nowhere' is no folder"),
    "inspect, NUL": (["inspect", "a\0b"], "holds a character"),
    "inspect, base": (["inspect", "adapter", "--base", "base"], "--base is for --memory"),
    "inspect, bytes": (["inspect", "adapter", "--memory", "--max-adapter-bytes", "-1"], "-1 is not in the range"),
    "card": (["card", "nowhere"], "adapter 'nowhere' is no folder"),
    "card, result": (["card", "adapter", "digits.json"], "digits.json"),
    "pull": (["pull", "no-owner"], "no-owner"),
    "push": (["push", "nowhere", "owner/name"], "nowhere"),
    "bases": (["bases", "fetch", "smolm2-135m"], "did you mean 'smollm2-135m'?"),
    "bases, command": (["bases", "ftch"], "No such command 'ftch'; did you mean 'fetch'?"),
    "recipes": (["recipes", "keys", "lara"], "lara"),
    "recipes, copy": (["recipes", "copy", "quickstart", "x.txt"], "a recipe is a .yaml file"),
    "recipes, command": (["recipes", "destroy"], "No such command 'destroy'\n"),
    "env": (["env", "--jsn"], "No such option '--jsn'; did you mean '--json'?"),
    "no command": (["serve"], "No such command 'serve'; commands are"),
    "another name of a command": (["finetune"], "No such command 'finetune'; did you mean 'train'?"),
    "a slip of a command": (["trian"], "No such command 'trian'; did you mean 'train'?"),
    "no option": (["--temperature"], "No such option '--temperature'\n"),
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_it_is_told_before_a_base_is_loaded(folder, monkeypatch, line):
    arguments, told = LINES[line]
    monkeypatch.chdir(folder)
    loaded = []
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *given, **_: loaded.append(given))
    before = sorted(folder.iterdir())
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2, (result.output, result.exc_info)
    assert isinstance(result.exception, SystemExit)
    assert re.search(re.escape(told), result.stderr), result.stderr[-500:]
    assert not loaded
    assert sorted(folder.iterdir()) == before


def test_the_matrix_is_as_large_as_it_says():
    assert len(LINES) > 150
