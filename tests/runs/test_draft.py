"""What is trained of a draft model, and that its folder is an ordinary one of transformers."""

import pytest
import torch
from conftest import TINY, random_ids
from datasets import Dataset
from tiny_base import rows, tiny_tokenizer, two_steps
from transformers import AutoModelForCausalLM
from trl import SFTConfig

from ssft.recipes.recipe import Recipe
from ssft.runs.methods import training_method
from ssft.runs.run import PreparedRun
from ssft.training.draft import DraftConfig, truncated


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_what_is_trained(tmp_path, architecture, everything, tied):
    tokenizer = tiny_tokenizer()
    base = TINY[architecture](vocab_size=len(tokenizer), tie_word_embeddings=tied)
    draft = truncated(base, DraftConfig(2, train_embeddings=everything))
    args = SFTConfig(**two_steps(tmp_path / "run"))
    run = PreparedRun(
        model=draft,
        tokenizer=tokenizer,
        fingerprint={"id": "base"},
        recipe=Recipe(method="draft"),
        args=args,
        train=None,
        validation=None,
        run_yaml="name: x\n",
    )
    method = training_method("draft")
    trainer = method.build_trainer(run, train_dataset=Dataset.from_list(rows(8)), processing_class=tokenizer)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    still = {name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name])}
    words = {name for name in before if "embed_tokens" in name or "lm_head" in name}
    assert len(words) == (1 if tied else 2)
    assert still.isdisjoint(words) if everything else still >= words
    assert {name.partition("layers.")[2].partition(".")[0] for name in before if ".layers." in name} == {"0", "1"}
    # OPT's biases of keys get no gradient: softmax does not change when all scores of a row move alike.
    assert not [name for name in still - words if "bias" not in name]
    method.write(run, trainer, {"method": "draft"}, tmp_path / "draft")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "draft").eval()
    ids = random_ids(1, 5)
    torch.testing.assert_close(again(input_ids=ids).logits, trainer.model.eval()(input_ids=ids).logits)
    assert str(tmp_path) not in (tmp_path / "draft" / "config.json").read_text()
