"""Recipes: every shipped file, the schema, overrides and the round trip."""

import json
import re
import typing
from dataclasses import fields
from pathlib import Path

import pytest
from trl import SFTConfig

from ssft.base.load import DTYPES, QUANTIZATIONS
from ssft.errors import ConfigError
from ssft.recipes.recipe import (
    RESERVED,
    SECTIONS,
    SECTIONS_READ,
    TOP,
    Recipe,
    describe_keys,
    dump_recipe,
    load_recipe,
    recipe_head,
    recipe_names,
    recipe_path,
)
from ssft.runs.methods import method_names
from ssft.runs.prepare import default_output

SHIPPED = recipe_names()


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


# --- shipped recipes ---


def test_there_are_shipped_recipes():
    assert {"quickstart", "sql", "dialogsum", "e2e_nlg", "peers/medusa_sql", "peers/draft_sql"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe_resolves(name):
    recipe = load_recipe(name)
    assert recipe.name == (name.rpartition("_")[2] if "/" in name else re.sub(r"(?<!^add)_streams$", "", name))
    assert recipe.lora.task_type == "CAUSAL_LM"
    args = recipe.build_training_args("out", "cpu")
    assert args.output_dir == "out"
    assert args.learning_rate == recipe.training["learning_rate"]
    if recipe.method == "streams":
        assert args.num_streams == recipe.training["num_streams"]
        assert args.activation_checkpointing is False
    assert load_recipe(recipe_path(name)) == recipe


@pytest.mark.parametrize("name", SHIPPED)
def test_head_comment_has_launch_line_and_override(name):
    head = re.sub(r" \\\n +", " ", recipe_head(recipe_path(name)))  # a command may go over several lines
    launches = re.findall(rf"^  ssft train {name} (.*)$", head, flags=re.M)
    recipe = load_recipe(name)
    # Where it is written anyway: not over an adapter that ships, and where the commands that compare look for a peer.
    assert f"--output {default_output(recipe)}" in launches
    overridden = [launch.split(" --output")[0].split() for launch in launches if "=" in launch]
    assert overridden
    assert all(load_recipe(name, overrides) for overrides in overridden)
    assert re.search(r"^Expected .*minutes", head, flags=re.M)


@pytest.mark.parametrize("recipe", ["peers/medusa_sql", "peers/draft_sql", "sql_streams"])
def test_a_recipe_over_an_adapter_has_the_adapter_s_data(recipe):
    main, peer = (load_recipe(name).data for name in ("sql", recipe))
    for key in ("train", "revision", "prompt_template", "completion_template", "validation", "validation_fraction"):
        assert getattr(peer, key) == getattr(main, key), key


def test_the_recipe_for_any_lora_adds_streams_as_the_shipped_adapters_have_them():
    general, task = (load_recipe(name) for name in ("add_streams", "e2e_nlg_streams"))
    assert general.adapter
    assert not general.data.prompt_template
    assert general.data.max_train_rows == 0
    for recipe in (general, task):
        recipe.data, recipe.adapter, recipe.name = None, "", ""
    assert general == task


STREAMS = [name for name in SHIPPED if load_recipe(name).method == "streams"]


@pytest.mark.parametrize("name", STREAMS)
def test_streams_take_a_share_of_whatever_layers_the_base_has(name):
    """The paper's share is 1/6 to 1/2 (§4)."""
    recipe = load_recipe(name)
    assert isinstance(recipe.training["num_msa_layers"], float)
    assert 1 / 6 <= recipe.training["num_msa_layers"] <= 1 / 2
    for layers in (12, 16, 18, 24, 28, 30, 32):
        assert layers // 6 <= recipe.stream_config(layers).num_msa_layers <= layers / 2
    if recipe.base == "smollm2-135m":
        measured = 12 if recipe.training.get("mode") == "lossless" else 8
        assert recipe.stream_config(num_layers=30).num_msa_layers == measured


@pytest.mark.parametrize("task", ["sql", "dialogsum", "e2e_nlg"])
def test_the_paper_s_runs_have_its_settings_and_our_data(task):
    paper, ours = load_recipe(f"paper_{task}"), load_recipe(task)
    paper.data.max_train_rows = ours.data.max_train_rows
    assert paper.data == ours.data
    assert (paper.base, paper.dtype, paper.lora.r, paper.quantization) == ("opt-1.3b", "bfloat16", 32, "none")
    settings = {"num_train_epochs": 5, "learning_rate": 5e-4, "lr_scheduler_type": "linear", "num_streams": 4}
    assert {key: paper.training[key] for key in settings} == settings
    assert paper.training["stream_loss_weight"] == 0.1
    assert paper.stream_config(24).num_msa_layers == (4 if task == "sql" else 12)
    assert "Not run here" in recipe_head(recipe_path(f"paper_{task}"))


@pytest.mark.parametrize(
    ("share", "layers", "number"),
    [("0.5", 24, 12), ("0.16", 24, 4), ("0.01", 30, 1), ("0.99", 30, 29), ("0.9", 2, 1), ("7", 30, 7)],
)
def test_a_share_of_layers_is_rounded_and_leaves_one_below(share, layers, number):
    recipe = load_recipe("sql", [f"num_msa_layers={share}"])
    assert recipe.stream_config(layers).num_msa_layers == number


@pytest.mark.parametrize("method", ["medusa", "draft"])
@pytest.mark.parametrize("task", ["sql", "dialogsum", "e2e_nlg"])
def test_heads_say_how_the_peers_of_every_task_are_made(method, task):
    name = f"peers/{method}_sql"
    commands = re.findall(rf"^  ssft train {name} (.*)$", recipe_head(recipe_path(name)), flags=re.M)
    recipes = [
        load_recipe(name, command.split(" --output")[0].split() if "=" in command else []) for command in commands
    ]
    homes = {str(default_output(recipe)): recipe for recipe in recipes}
    peer = homes[f"outputs/peers/{task}/{method}"]
    assert peer.name == task
    assert peer.training.get("max_length") == load_recipe(task).training.get("max_length")


@pytest.mark.parametrize("name", SHIPPED)
def test_dump_round_trip(name, tmp_path):
    more = {
        "streams": ["lora.target_modules=[v_proj, q_proj]", "quantization=4bit"],
        "medusa": ["medusa.num_layers=2", "quantization=4bit"],
        "draft": ["draft.layers=first"],
    }
    recipe = load_recipe(name, ["learning_rate=1e-5", *more[load_recipe(name).method]])
    path = tmp_path / "run.yaml"
    path.write_text(dump_recipe(recipe))
    again = load_recipe(path)
    assert again == recipe
    assert dump_recipe(again) == dump_recipe(recipe)


def test_dump_keeps_what_python_changed(write):
    recipe = load_recipe("quickstart")
    recipe.data.max_train_rows, recipe.tree.top_k, recipe.training["run_name"] = 7, 9, "1e-3"
    again = load_recipe(write(dump_recipe(recipe)))
    assert (again.data.max_train_rows, again.tree.top_k, again.training["run_name"]) == (7, 9, "1e-3")


def test_dump_keeps_explicit_defaults():
    assert "top_k: 4" in dump_recipe(load_recipe("quickstart", ["top_k=4"]))
    assert "top_k" not in dump_recipe(load_recipe("quickstart"))


# --- names and paths ---


def test_unknown_recipe():
    with pytest.raises(
        ConfigError, match=r"'quickstrt' is neither a shipped recipe nor a YAML file; did you mean 'quickstart'"
    ):
        load_recipe("quickstrt")


def test_name_defaults_to_the_file(write):
    assert load_recipe(write("base: x")).name == "mine"
    assert load_recipe(write("name: other")).name == "other"


@pytest.mark.parametrize("name", ["../adapters/mine", "/tmp/mine", "..", ".hidden", "a/b", "a\\b", "two words", "a\nb"])
def test_a_name_is_no_path(write, name):
    with pytest.raises(ConfigError, match=r"name=.*letters, digits and . _ - only, and no dot in front; set name="):
        load_recipe(write(f"name: {json.dumps(name)}"))
    with pytest.raises(ConfigError, match=r"no dot in front"):
        load_recipe("quickstart", [f"name={name}"])


@pytest.mark.parametrize("name", ["sql", "v1.2_b-3", "größe", "_a", "7"])
def test_names_that_are_fine(name):
    assert load_recipe("quickstart", [f"name={name}"]).name == name


def test_a_name_that_python_gave_is_checked_too():
    with pytest.raises(ConfigError, match="no dot in front"):
        Recipe(name="../mine").check()


# --- YAML ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:\n  train: [", r"mine\.yaml, line 2: invalid YAML"),
        ("training:\n  num_streams: 1\n  num_streams: 2\n", r"line 3: invalid YAML: duplicate key 'num_streams'"),
        ("tree: {}\ntree: {}\n", "line 2: invalid YAML: duplicate key 'tree'"),
        ("", "a recipe is a mapping"),
        ("- a", "a recipe is a mapping"),
        ("data: 3", "section data is 3; write indented"),
        (
            "training:\n  num_stream: 3",
            r"mine\.yaml: unknown key training\.num_stream; did you mean 'training\.num_streams'\?",
        ),
        ("trainig:\n  num_streams: 3", "unknown key trainig; "),
        ("num_streams: 3", r"unknown key num_streams; did you mean 'training\.num_streams'\?"),
        ("lora:\n  task_type: SEQ_CLS", "lora.task_type cannot be set in a recipe: ssft sets it"),
        ("training:\n  output_dir: x", "training.output_dir cannot be set.*--output"),
        ("training:\n  push_to_hub: true", "training.push_to_hub cannot be set in a recipe: .*`ssft push`"),
        ("training:\n  hub_model_id: me/x", "training.hub_model_id cannot be set in a recipe: .*`ssft push`"),
        ("training:\n  trust_remote_code: true", "trust_remote_code cannot be set in a recipe: it would run code"),
        ("training:\n  model_init_kwargs: {a: 1}", "model_init_kwargs cannot be set in a recipe: ssft loads the base"),
        ("training:\n  learning_rate: fast", "training.learning_rate='fast', expected a number from 0"),
        ("data:\n  train: 3", "data.train=3, expected str"),
        ("medusa:\n  num_layer: 1", r"unknown key medusa\.num_layer; did you mean .*medusa\.num_layers"),
        ("draft:\n  layrs: first", r"unknown key draft\.layrs; did you mean 'draft\.layers'"),
        ("draft:\n  layers: last", r"draft\.layers='last', expected 'spaced' \\| 'first'"),
        ("method: dora", r"method='dora', expected 'streams' \\| 'lora' \\| 'medusa' \\| 'draft'"),
        ("quantization: 8bit", "quantization='8bit', expected 'none' \\| '4bit'"),
    ],
)
def test_bad_files(write, text, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(text))


def test_an_empty_section_is_all_defaults(write):
    assert load_recipe(write("base: x\ntree:\n")).tree == load_recipe(write("base: x")).tree


def test_yaml_scalars(write):
    text = (
        "training:\n  learning_rate: 1e-3\n  eval_strategy: no\n  num_train_epochs: 2\n  stream_learning_rate: none\n"
    )
    training = load_recipe(write(text)).training
    assert training == {
        "learning_rate": 0.001, "eval_strategy": "no", "num_train_epochs": 2.0, "stream_learning_rate": None,
    }  # fmt: skip
    assert isinstance(training["num_train_epochs"], float)


# --- overrides ---


def test_last_override_wins(write):
    path = write("training:\n  num_streams: 2\n")
    assert load_recipe(path).training["num_streams"] == 2
    assert load_recipe(path, ["training.num_streams=3"]).training["num_streams"] == 3
    assert load_recipe(path, ["training.num_streams=3", "num_streams=5"]).training["num_streams"] == 5


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("base=org/model", "", "base", "org/model"),
        ("data.train=5", "data", "train", "5"),
        ("data.validation=", "data", "validation", ""),
        ("data.prompt_template={question}", "data", "prompt_template", "{question}"),
        ("data.prompt_template=Q: {q}: ", "data", "prompt_template", "Q: {q}: "),
        ("max_nodes=8", "tree", "max_nodes", 8),
        ("lora.lora_dropout=0", "lora", "lora_dropout", 0.0),
        ("lora.target_modules=[q_proj]", "lora", "target_modules", {"q_proj"}),
        ("lora.layer_replication=[[0, 2]]", "lora", "layer_replication", [(0, 2)]),
        ("init_lora_weights=pissa_niter_4", "lora", "init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights=false", "lora", "init_lora_weights", False),
        ("training.report_to=[tensorboard]", "training", "report_to", ["tensorboard"]),
        ("training.lr_scheduler_kwargs={num_cycles: 2}", "training", "lr_scheduler_kwargs", {"num_cycles": 2}),
    ],
)
def test_override_values(override, section, key, value):
    recipe = load_recipe("quickstart", [override])
    holder = getattr(recipe, section) if section else recipe
    assert (holder[key] if isinstance(holder, dict) else getattr(holder, key)) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_streams", "write key=value"),
        ("=3", "write key=value"),
        ("num_stream=6", r"unknown key num_stream; did you mean 'training\.num_streams'\?"),
        ("traning.num_streams=6", r"unknown key traning\.num_streams; did you mean 'training\.num_streams'\?"),
        ("tree.num_streams=6", r"did you mean 'training\.num_streams'\?"),
        ("qqq=6", "unknown key qqq; sections are data, lora, training, tree, medusa, draft"),
        ("revision=x", r"revision is ambiguous; write data\.revision or lora\.revision"),
        ("output_dir=x", "training.output_dir cannot be set.*--output"),
        ("gradient_checkpointing=true", "old name of training.activation_checkpointing"),
        ("num_streams=2.5", "training.num_streams=2.5, expected int"),
        (
            "num_msa_layers=1.5",
            r"num_msa_layers=1\.5, expected a whole number of layers from 1, or a share of the base's layers above 0",
        ),
        ("num_msa_layers=0.0", r"num_msa_layers=0\.0, expected .*above 0 and below 1"),
        ("num_msa_layers=half", r"num_msa_layers='half', expected .*a share of the base's layers"),
        ("num_msa_layers=0", "num_msa_layers=0: streams need at least one layer to run in"),
        ("num_streams=true", "training.num_streams=True, expected int"),
        ("training.bf16=yes", "training.bf16='yes', expected bool"),
        ("lr_scheduler_type=foo", "expected 'linear' \\| 'cosine'"),
        ("lora.bias=both", "expected 'none' \\| 'all' \\| 'lora_only'"),
        ("lora.layers_to_transform=[a]", r"expected int \| list\[int\] \| none"),
        ("lora.lora_dropout=[1]", r"lora\.lora_dropout=\[1\], expected a number from 0, below 1"),
        ("lora.r=0", r"lora\.r=0, expected a whole number from 1"),
        ("lora.layers_pattern=x", "lora: .*cannot be used when"),
        ("max_nodes=0", "tree.max_nodes=0"),
        ("num_streams=99", "num_streams=99"),
        ("identifier=none", "identifier='none'"),
        ("validation_fraction=2", "data.validation_fraction=2.0"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", [override])


# --- methods ---


def test_every_method_is_known_everywhere():
    named = typing.get_args(Recipe.__annotations__["method"])
    assert set(SECTIONS_READ) == set(named) == set(method_names())


def test_nothing_of_a_recipe_uploads_or_runs_foreign_code():
    words = ("hub_", "push_to", "trust_", "model_init")
    risky = {f.name for f in fields(SFTConfig) if f.name.startswith(words)}
    assert len(risky) > 5
    assert risky <= set(RESERVED["training"])


# --- where results go ---


def test_heads_go_to_the_peers_of_their_adapter():
    recipe = load_recipe("peers/medusa_sql", ["adapter=adapters/mine"])
    assert str(default_output(recipe)) == "outputs/peers/mine/medusa"
    assert str(default_output(load_recipe("peers/medusa_sql", ["adapter=me/mine"]))) == "outputs/peers/mine/medusa"


def test_a_twin_goes_to_the_peers_of_the_adapter_whose_recipe_it_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = Path("adapters/mine")
    home.mkdir(parents=True)
    (home / "run.yaml").write_text(dump_recipe(load_recipe("sql")))

    def output(source, *overrides):
        return str(default_output(load_recipe(source, list(overrides)), recipe_path(source)))

    # A folder that is no adapter says nothing about whose peer it is.
    assert output(home / "run.yaml", "method=lora") == "outputs/peers/sql/twin"
    (home / "adapter_config.json").write_text("{}")
    assert output(home / "run.yaml", "method=lora") == "outputs/peers/mine/twin"
    assert output(home / "run.yaml") == "outputs/sql"
    assert output("sql", "method=lora") == "outputs/peers/sql/twin"
    # The twin's own run.yaml makes the same twin again.
    twin = Path("outputs/peers/mine/twin")
    twin.mkdir(parents=True)
    (twin / "run.yaml").write_text(dump_recipe(load_recipe("sql", ["method=lora"])))
    (twin / "adapter_config.json").write_text("{}")
    (twin / "provenance.json").write_text('{"method": "lora"}')
    assert output(twin / "run.yaml") == "outputs/peers/mine/twin"


def test_a_run_file_of_streams_is_what_it_always_was():
    assert "method" not in dump_recipe(load_recipe("quickstart"))
    assert "adapter" not in dump_recipe(load_recipe("quickstart"))
    assert "method: lora" in dump_recipe(load_recipe("quickstart", ["method=lora"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["medusa.num_heads=2"],
            r"medusa\.num_heads has no effect with method=streams, which trains a LoRA with speculative streams; leave",
        ),
        (["draft.layers=first"], r"draft\.layers has no effect with method=streams"),
        (
            ["method=draft", "save_dtype=float16"],
            r"save_dtype=float16 has no effect with method=draft",
        ),
        (["method=lora", "draft.num_layers=2"], r"draft\.num_layers has no effect with method=lora"),
        (
            ["method=draft"],
            r"lora\.\w+ has no effect with method=draft, which trains a small model",
        ),
        (["num_layers=2"], r"num_layers is ambiguous; write medusa\.num_layers or draft\.num_layers"),
    ],
)
def test_settings_that_the_method_does_not_read(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", overrides)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("draft", ["training.num_streams=2"], r"training\.num_streams has no effect with method=draft"),
        ("draft", ["stream_loss_weight=2"], r"training\.stream_loss_weight has no effect with method=draft"),
        ("draft", ["tree.top_k=2"], r"tree\.top_k has no effect with method=draft"),
        ("draft", ["quantization=4bit"], "method=draft with quantization=4bit: a draft is trained in full"),
        (
            "draft",
            ["adapter=x"],
            "adapter=x has no effect with method=draft, which trains a small model of some of the bare",
        ),
        ("draft", ["draft.num_layers=0"], r"draft\.num_layers=0: a draft has at least one layer"),
        ("medusa", ["lora.r=4"], r"lora\.r has no effect with method=medusa"),
        ("medusa", ["num_heads=0"], r"medusa\.num_heads=0"),
        ("medusa", ["adapter="], "method=medusa trains heads over an adapter, and none is named; set adapter=FOLDER"),
    ],
)
def test_settings_that_a_peer_refuses(name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(f"peers/{name}_sql", overrides)


def test_a_near_name_in_a_folder_is_suggested():
    with pytest.raises(ConfigError, match=r"'medusa_sql' is neither .* did you mean 'peers/medusa_sql'\?"):
        load_recipe("medusa_sql")


# --- training arguments ---


@pytest.mark.parametrize(
    ("overrides", "bf16"),
    [(["dtype=float32"], False), (["dtype=bfloat16"], True), (["dtype=bfloat16", "bf16=false"], False)],
)
def test_training_args_follow_dtype_and_device(overrides, bf16):
    args = load_recipe("quickstart", overrides).build_training_args("out", "cpu")
    assert (args.use_cpu, args.bf16, args.fp16, args.report_to) == (True, bf16, False, [])


def test_training_args_errors_are_config_errors():
    recipe = load_recipe("quickstart", ["dtype=float32"])
    recipe.training["stream_loss_weight"] = -1.0
    with pytest.raises(ConfigError, match=r"stream_loss_weight=-1.0, expected a number from 0"):
        recipe.build_training_args("out", "cpu")
    recipe = load_recipe("quickstart", ["dtype=float32", "load_best_model_at_end=true", "eval_strategy=no"])
    with pytest.raises(ConfigError, match=r"recipe quickstart, training: .*load_best_model_at_end"):
        recipe.build_training_args("out", "cpu")


# --- the schema as help ---


@pytest.mark.parametrize("section", [TOP, *SECTIONS])
def test_every_key_is_described(section):
    keys = describe_keys(section)
    assert keys
    assert all(kind and text for _, kind, _, text in keys)
    assert not {key for key, *_ in keys} & set(RESERVED.get(section, {}))


def test_unknown_section():
    with pytest.raises(ConfigError, match=r"unknown section 'model'"):
        describe_keys("model")


def test_precisions_are_those_of_the_bases():
    kinds = {key: kind for key, kind, *_ in describe_keys(TOP)}
    assert set(kinds["quantization"].split(" | ")) == {repr(name) for name in QUANTIZATIONS}
    assert set(kinds["dtype"].split(" | ")) == {repr(name) for name in DTYPES}
