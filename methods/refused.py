"""Methods that are refused by name, each with the reason: no sum can serve them, or noise would come too late.

Guarantees: whoever looks for one finds out why it is not there, and where there is one, what comes closest.
Source: docs/methods.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

RefusedCategory = Literal["additive", "selective", "reparameterised", "aggregation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedMethod:
    """A method that cannot be had.

    Attributes:
        name: under which users will look for it.
        title: as papers have it.
        category: of parameter-efficient fine-tuning, or of how updates are put together.
        source: where it was published.
        reason: why it is refused.
    """

    name: str
    title: str
    category: RefusedCategory
    source: str
    reason: str


_EACH: Final = "needs every single update"

REFUSED: Final[dict[str, RefusedMethod]] = {
    method.name: method
    for method in (
        RefusedMethod(
            name="flora",
            title="FLoRA (stacking)",
            category="reparameterised",
            source="Wang et al., NeurIPS 2024, arXiv:2409.05976",
            reason="FLoRA stacks everybody's factors side by side, and the stack shows each adapter by itself; "
            "what it computes, the mean of the products, is what FlexLoRA and FedEx-LoRA reach from sums",
        ),
        RefusedMethod(
            name="hilora",
            title="HiLoRA",
            category="reparameterised",
            source="Peng et al., arXiv:2603.02785",
            reason=f"HiLoRA groups participants by the subspaces that their own adapters span, so it {_EACH}",
        ),
        RefusedMethod(
            name="fl-tac",
            title="FL-TAC",
            category="reparameterised",
            source="Ping et al., arXiv:2404.15384",
            reason=f"FL-TAC clusters the adapters of single participants by their similarity, so it {_EACH}",
        ),
        RefusedMethod(
            name="hetlora-norms",
            title="HetLoRA, weighted by norms",
            category="reparameterised",
            source="Cho et al., EMNLP 2024, arXiv:2401.06432",
            reason="weights by the norm of each participant's product would tell the norm of a single update, and no "
            "noise covers it",
        ),
        RefusedMethod(
            name="lora-a2-importance",
            title="LoRA-A2, ranks by importance",
            category="reparameterised",
            source="Koo et al., arXiv:2410.22815",
            reason="each participant would pick the ranks that its own data finds important: they lie at other places, "
            "and the choice itself tells of data",
        ),
        RefusedMethod(
            name="lora-sb-gradient",
            title="LoRA-SB, started from a gradient",
            category="reparameterised",
            source="Ponkshe et al., arXiv:2411.19557",
            reason="the first full gradient is of private data and would leave without noise; method fed-sb starts "
            "from the base's own weights",
        ),
        RefusedMethod(
            name="eva",
            title="EVA",
            category="reparameterised",
            source="Paischer et al., arXiv:2410.07170",
            reason="EVA initialises the adapter from activations on private data, which would leave without noise",
        ),
        RefusedMethod(
            name="corda",
            title="CorDA",
            category="reparameterised",
            source="Yang et al., NeurIPS 2024, arXiv:2406.05223",
            reason="CorDA initialises the adapter from private data, which would leave without noise",
        ),
        RefusedMethod(
            name="lora-ga",
            title="LoRA-GA",
            category="reparameterised",
            source="Wang et al., NeurIPS 2024, arXiv:2407.05000",
            reason="LoRA-GA initialises the adapter from private gradients, which would leave without noise",
        ),
        RefusedMethod(
            name="gradient-selection",
            title="layers chosen by gradient norm",
            category="selective",
            source="Sun et al., arXiv:2408.15600",
            reason="which layers have large gradients tells of data, and no noise covers the choice; method layers "
            "takes those that the plan names",
        ),
        RefusedMethod(
            name="top-k",
            title="top-k sparsification",
            category="aggregation",
            source="Kuo et al. (FLASC), arXiv:2406.05233",
            reason="each participant's own largest entries lie at other places, so a sum of them is none, and the "
            "places tell of data; masks are common",
        ),
        RefusedMethod(
            name="clustering",
            title="clustering by similarity",
            category="aggregation",
            source="Sattler et al., arXiv:1910.01991",
            reason=f"grouping participants by the similarity of their updates {_EACH}",
        ),
        RefusedMethod(
            name="krum",
            title="Krum",
            category="aggregation",
            source="Blanchard et al., NeurIPS 2017, arXiv:1703.02757",
            reason=f"Krum picks the update that lies closest to the others, so it {_EACH}",
        ),
        RefusedMethod(
            name="median",
            title="coordinate-wise median, trimmed mean",
            category="aggregation",
            source="Yin et al., ICML 2018, arXiv:1803.01498",
            reason=f"a coordinate-wise median or trimmed mean {_EACH}; a sum has none",
        ),
        RefusedMethod(
            name="fltrust",
            title="FLTrust",
            category="aggregation",
            source="Cao et al., NDSS 2021, arXiv:2012.13995",
            reason=f"weights by the direction of each update, beside one on the coordinator's own data: it {_EACH}",
        ),
        RefusedMethod(
            name="pfedpg",
            title="pFedPG",
            category="additive",
            source="Yang et al., ICCV 2023, arXiv:2308.15367",
            reason=f"pFedPG learns a prompt generator from each participant's own prompt, so it {_EACH}",
        ),
        RefusedMethod(
            name="pfpt",
            title="PFPT",
            category="additive",
            source="Weng et al., NeurIPS 2024",
            reason=f"PFPT matches the prompts of single participants to each other, so it {_EACH}",
        ),
    )
}
