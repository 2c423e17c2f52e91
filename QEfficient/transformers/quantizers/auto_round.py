"""AutoRound: integers in the layout of GPTQ or of AWQ, whichever the config names."""

from __future__ import annotations

from QEfficient.transformers.quantizers.awq import AWQ
from QEfficient.transformers.quantizers.checks import Section
from QEfficient.transformers.quantizers.gptq import GPTQ

_LAYOUTS: dict[str, type[GPTQ] | type[AWQ]] = {"auto_round:auto_gptq": GPTQ, "auto_round:auto_awq": AWQ}


class AutoRound:
    """The format."""

    @classmethod
    def from_config(cls, section: Section) -> GPTQ | AWQ:
        """The scheme of the layout; bits of single layers follow from their shapes.

        Raises:
            UnsupportedModel: a variant that is not read.
        """
        section.choice("data_type", ("int",), "int")
        layout = _LAYOUTS[section.choice("packing_format", tuple(_LAYOUTS))]
        names = ("bits", "group_size")
        values = {name: section.values[name] for name in names if name in section.values}
        dynamic = {"dynamic": True} if section.values.get("extra_config") else {}
        return layout.from_config(Section(section.source, section.name, {**values, **dynamic}))
