"""The catalogue: which systems there are, that every fact is complete, and that only what is built is called built."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from hollowbone.catalogue import KINDS, SOURCES, System, Systems, catalogue, system, systems
from hollowbone.cite import bibtex, cite
from hollowbone.errors import UserError
from hollowbone.models.base import cards

SLUGS = """
a_sdm affnet apriori_wave cbnet cfsr cloud_adapter clr clst codenet compactflownet convfirst convllava convnext dass
dct_histotransformer deformable_codesign dhvt diffrate ecoflap ed_vit efficientformer efficientvim ela emov2 entropic_student
fast_model_scaling fast_sparse_convnets feather flash_llm flashfftconv fmvit ghostnetv2 glmix gmp hft_realtime hsdt hyperzzw
im2win inceptionnext istftnet jlcm lapp lightm_unet llava_mini long_convs lpvit medusa metaformer_baselines mobiledets
mobilenetv2 my3dgen osnet pc_lossless pepsi_pp phnn powerbev precrop pyramiddrop rd_prune reversible_mbconv_unet3d rws
scaling_up_your_kernels sgconv simplenet sit_self_slimmed solo spark sret tvconv ulsam unireplknet vitok vovnet vtrans zipvl
""".split()  # noqa: SIM905

EVERY = list(catalogue().values())


def test_there_are_exactly_these_75_systems() -> None:
    assert len(SLUGS) == len(set(SLUGS)) == 75
    assert list(catalogue()) == SLUGS


@pytest.mark.parametrize("s", EVERY, ids=lambda s: s.slug)
def test_facts_are_complete(s: System) -> None:
    assert s.kind in KINDS
    assert s.tasks
    assert s.idea.endswith(".")
    assert s.claims
    assert all(c.source in SOURCES and c.text for c in s.claims)
    assert s.code
    assert 2015 < s.year < 2027
    assert not s.arxiv or re.fullmatch(r"\d{4}\.\d{5}", s.arxiv)
    assert not s.arxiv or int(s.arxiv[:2]) + 2000 <= s.year + 1, "published before it was on arXiv"
    assert not s.doi or s.doi.startswith("10.")


@pytest.mark.parametrize("s", EVERY, ids=lambda s: s.slug)
def test_bibtex_is_complete(s: System) -> None:
    kind, key, body = re.fullmatch(r"@(\w+)\{(\w+),\n(.*)\n\}", bibtex(s), flags=re.DOTALL).groups()  # type: ignore[union-attr]
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", body, flags=re.MULTILINE))
    assert len(fields) == len(body.splitlines())
    assert key == f"{s.slug}_{s.year}"
    assert {"author", "title", "year"} <= set(fields)
    assert {"misc": "howpublished", "inproceedings": "booktitle", "article": "journal"}[kind] in fields
    assert fields.keys() & {"eprint", "doi", "pages"}, "nothing to find the paper by"
    assert all(text.count("{") == text.count("}") and "%" not in text.replace(r"\%", "") for text in fields.values())


def test_papers_and_names_are_unique() -> None:
    for key in ("name", "title", "idea"):
        assert len({getattr(s, key) for s in EVERY}) == 75, key
    identifiers = [s.arxiv for s in EVERY if s.arxiv]
    assert len(identifiers) == len(set(identifiers))


def test_only_what_can_be_imported_is_called_built() -> None:
    built = [s for s in EVERY if s.status == "built"]
    assert [s.slug for s in built] == ["efficientformer", "mobilenetv2"]
    for s in built:
        for module in s.entry_points:
            import_module(module)
        assert s.planned_parts, "its other tasks are planned, and that is said"


def test_every_registered_network_belongs_to_a_built_system() -> None:
    assert {system(c.system).status for c in cards().values()} == {"built"}


def test_recalled_figures_are_marked_unverified() -> None:
    claims = system("mobilenetv2").claims
    assert all(c.unverified for c in claims)
    assert str(claims[0]).endswith("[unverified]")
    assert not system("efficientformer").claims[0].unverified


def test_systems_are_found_by_pattern_and_task() -> None:
    assert len(systems()) == 75
    assert [s.slug for s in systems("mobile*")] == ["mobiledets", "mobilenetv2"]
    assert {s.slug for s in systems(task="super-resolution")} == {"cfsr"}
    assert len(systems("nothing*")) == 0
    assert systems()[:2] == systems("a[_f]*")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: system("mobilenetv3"), "mobilenetv2"),
        (lambda: systems(task="classificaton"), "classification"),
        (lambda: systems(""), "every system"),
        (lambda: cite("mobilenetv2_10"), "mobilenetv2_100"),
    ],
)
def test_unknown_names_are_refused_naming_the_nearest(call, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        call()


def test_tables_show_every_system_and_escape_what_they_show() -> None:
    one = system("gmp")
    strange = Systems([System(**{**one.__dict__, "idea": "<b>&</b>"})])
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in strange._repr_html_()
    for slug in SLUGS:
        assert slug in repr(systems())
        assert slug in systems()._repr_html_()


def test_models_are_cited_by_their_system() -> None:
    assert cite("efficientformer_l1") == cite("efficientformer")
    assert cite("mobilenetv2_140@weights.safetensors") == cite("mobilenetv2")


def test_run_is_cited_by_all_that_it_used(tmp_path: Path) -> None:
    settings = {
        "candidates": "mobilenetv2, efficientformer",
        "reference": "mobilenetv2_100",
        "start": None,
        "teacher": "timm:resnet18",
    }
    result = {"model": {"config": {"space": "efficientformer"}}, "settings": settings}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert cite(tmp_path) == cite("efficientformer") + "\n\n" + cite("mobilenetv2")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": {"config": {}}}'])
def test_folder_without_a_finished_run_is_refused(tmp_path: Path, text: str) -> None:
    if text:
        (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match="no finished run"):
        cite(tmp_path)
