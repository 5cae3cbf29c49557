"""Donors of the user's own: found where they are stored, read, and held against the study's data."""

import dataclasses
import os
import tempfile
from collections import Counter
from pathlib import Path

from cnnsim_tf import tracking
from cnnsim_tf.datasets import Dataset
from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.report.formats import listed
from cnnsim_tf.stored_models import Networks, networks_of, read_model
from cnnsim_tf.stored_models.architecture import build_model
from cnnsim_tf.study import Study
from cnnsim_tf.tracking.sources import SCHEMES, connect_to_registry, found_models


def with_own_donors(study: Study, dataset: Dataset) -> tuple[Study, Dataset, Networks]:
    """Return the donors of a study, the study with them one by one and their architecture, the data with their classes.

    Raises:
        ParameterError: the study has parameters of donors that it trains, or there are no such models.
        StudyError: a model cannot be read, or they do not fit together or the data.
    """
    for name, instead in (("cnn", "they bring their architecture"), ("epochs", "they are trained")):
        if getattr(study, name) != Study.__dataclass_fields__[name].default:
            raise ParameterError(f"{name} means nothing to donors of your own, since {instead}: leave it out")
    in_store = [source for source in study.donors if source.startswith(SCHEMES)]
    of_registry = all(source.startswith("models:/") for source in in_store)
    registry = os.environ.get("MLFLOW_REGISTRY_URI", "") if of_registry else ""
    if in_store and tracking.is_new(registry):  # which asking would make
        name = "MLFLOW_REGISTRY_URI" if registry else "MLFLOW_TRACKING_URI"
        raise ParameterError(f"donors name {in_store[0]}, but there is no such store yet: set {name} to the models'")
    client = None
    if in_store:
        client = connect_to_registry(registry) if registry else tracking.connect()
    with tempfile.TemporaryDirectory() as folder:
        places = found_models(client, study.donors, Path(folder))
        models = {source: read_model(place, source) for source, place in places.items()}
    try:
        networks = networks_of(models, study.pixels, dataset.side)
        build_model(networks.description)
    except StudyError:
        raise
    except Exception as error:  # of Keras, where a description was written by hand
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise StudyError(f"donors cannot be made one network ({reason})") from error
    same = Counter(networks.digests)
    if twice := [source for source, digest in zip(models, networks.digests, strict=True) if same[digest] > 1]:
        networks.notes.append(f"{listed(twice)} have twins among the donors, with the same weights: these count twice")
    first, model = next(iter(models.items()))
    images, largest = (dataset.side, dataset.side, dataset.channels), int(dataset.y_train.max())
    takes, gives = networks.image_shape, model.output_shape[1:]
    if takes != images or len(gives) > 1 or networks.classes <= largest:
        raise ParameterError(
            f"the donors take images {_by(takes)} and give {_by(gives)} outputs ({first}), but {study.dataset} has "
            f"images {_by(images)} and labels up to {largest}"
        )
    networks.register()
    dataset = dataclasses.replace(dataset, classes=networks.classes)
    return dataclasses.replace(study, donors=tuple(models), cnn=networks.cnn), dataset, networks


def _by(shape: tuple[int | None, ...]) -> str:
    return "×".join("any" if size is None else str(size) for size in shape)
