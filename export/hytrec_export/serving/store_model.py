"""The model that a server's store is opened for, by the settings of its build."""

from __future__ import annotations

from hytrec_export.settings import ServingSettings
from hytrec_export.state.events import KeyTypes
from hytrec_export.state.kinds import StoreModel


def store_model(settings: ServingSettings) -> StoreModel:
    """The model of a build."""
    return StoreModel(
        fingerprint=settings.fingerprint,
        precision=settings.precision,
        sizes=settings.sizes,
        key_types=KeyTypes(item=settings.item_key_type, behavior=settings.behavior_key_type),
    )
