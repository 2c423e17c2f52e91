"""Which plan of a model can be exported, where only an export shows it.

An export that fails takes as long as one that does not: the store remembers both what works and what does not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from QEfficient.contract import Plan
from QEfficient.errors import ExportError, SizeDependence
from QEfficient.store.notes import read_note, write_note

if TYPE_CHECKING:
    from QEfficient.base.modeling_qeff import QEFFBaseModel

logger = logging.getLogger(__name__)

PlanT = TypeVar("PlanT", bound=Plan)


def first_exportable(
    model: QEFFBaseModel[PlanT, Any],
    plan: PlanT,
    lengths: Mapping[str, Any],
    narrow: Callable[[PlanT, ExportError], PlanT],
) -> PlanT:
    """See :meth:`QEfficient.base.modeling_qeff.QEFFBaseModel.resolve_by_export`."""
    wish = {"onnx": model.export_ingredients(plan), "lengths": lengths}
    if (changes := read_note("plans", wish)) is not None:
        return plan.replaced(**changes)
    resolved = plan
    while (error := _export_error(model, resolved)) is not None:
        resolved = narrow(resolved, error)
        logger.info("%s is exported for fewer lengths: %s", model.model_name, error)
    before, after = plan.key(), resolved.key()
    write_note("plans", wish, {name: value for name, value in after.items() if value != before[name]})
    return resolved


def _export_error(model: QEFFBaseModel[PlanT, Any], plan: PlanT) -> ExportError | None:
    """Why ``plan`` cannot be exported; None once it is."""
    tried = {"onnx": model.export_ingredients(plan)}
    if (failure := read_note("size_dependence", tried)) is not None:
        return SizeDependence(
            failure["message"], {axis: (low, high) for axis, (low, high) in failure["ranges"].items()}
        )
    try:
        model.export_plan(plan)
    except SizeDependence as error:
        write_note("size_dependence", tried, {"message": str(error), "ranges": error.ranges})
        return error
    except ExportError as error:
        return error
    return None
