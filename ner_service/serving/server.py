"""A process around the app: loads the model, listens, drains on SIGTERM, ends when the model dies."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from types import TracebackType

import uvicorn

from ner_service.errors import ConfigError
from ner_service.serving.app import build_app
from ner_service.serving.batcher import ModelDiedError
from ner_service.serving.images import ImageReader
from ner_service.serving.metrics import Metrics
from ner_service.serving.middleware import Arrivals
from ner_service.serving.registry import Registry, ServedModel
from ner_service.serving.settings import Settings, remarks

logger = logging.getLogger(__name__)

_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

_ENDING = (signal.SIGTERM, signal.SIGINT)

# Longer than the 60 seconds of most proxies, or they send requests into connections that are just being closed.
_KEEP_ALIVE_S = 75
# Seconds for replies that are due at the end of the grace to leave.
_LAST_REPLIES_S = 5
# Seconds for a batch that nobody waits for any more.
_LAST_BATCH_S = 1

# Python's own 700 are few beside the parts of one request.
_COLLECTED_OBJECTS = 100_000


class Server(uvicorn.Server):
    """Uvicorn's server, which tells the models first that it shuts down."""

    def __init__(
        self,
        config: uvicorn.Config,
        registry: Registry,
        arrivals: Arrivals,
        images: ImageReader | None,
        grace_s: float,
    ) -> None:
        super().__init__(config)
        self._registry = registry
        self._arrivals = arrivals
        self._images = images
        self._grace_s = grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Turn readiness off, finish what was begun within the grace, and refuse the rest with 503."""
        self._registry.drain()
        timer = asyncio.get_running_loop().call_later(self._grace_s, self._abort)
        await super().shutdown(sockets)
        timer.cancel()

    def _abort(self) -> None:
        self._arrivals.abort()
        self._registry.abort()
        if self._images is not None:
            self._images.abort()


OnDeath = Callable[[], None]


def load_model(settings: Settings, metrics: Metrics, on_death: OnDeath) -> ServedModel:
    """The bundle of the settings, ready to be served.

    Raises:
        BundleError: it cannot be loaded.
    """
    import torch

    from ner_service.recognizer import Recognizer

    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    recognizer = Recognizer.load(settings.model, settings.device)
    model = ServedModel(recognizer, settings=settings, metrics=metrics, on_death=on_death)
    metrics.model_served(model.digest, recognizer.precision)
    return model


def load_images(settings: Settings, metrics: Metrics, on_death: OnDeath) -> ImageReader | None:
    """Who reads images, if the settings want it.

    Raises:
        ConfigError: the extra is not installed.
    """
    if not settings.ocr:
        return None
    try:
        from ner_service.serving.ocr import RapidOcr
    except ModuleNotFoundError as error:
        expected = "expected the extra: pip install 'ner-service[ocr]'"
        raise ConfigError(f"NER_OCR: found no {error.name}, {expected}") from None
    ocr = RapidOcr(settings.num_threads, settings.max_image_pixels)
    return ImageReader(ocr, settings=settings, metrics=metrics, on_death=on_death)


def serve(settings: Settings, load: Callable[[Settings, Metrics, OnDeath], ServedModel] = load_model) -> None:
    """Serve what `load` gives until SIGTERM or SIGINT, or until the model dies.

    Raises:
        BundleError: the model cannot be loaded; nothing was served.
        ConfigError: the address cannot be listened on, or images cannot be read; nothing was served.
        ModelDiedError: the model's thread died, or the self-test failed; the process should end with an error.
    """
    _log_to_stderr()
    # The first process of a container is deaf to a signal that it does not handle.
    for number in _ENDING:
        signal.signal(number, lambda *_: sys.exit(0))
    for remark in remarks():
        logger.warning("%s", remark)
    model_died = False

    def on_death() -> None:
        nonlocal model_died
        model_died = True
        server.should_exit = True

    metrics = Metrics()
    images = load_images(settings, metrics, on_death)
    registry = Registry(load(settings, metrics, on_death))
    arrivals = Arrivals()
    config = uvicorn.Config(
        build_app(settings, registry, metrics, images, arrivals),
        host=settings.host,
        port=settings.port,
        # The other one drops the body of a request that offers an upgrade to HTTP/2, as Java's client does.
        http="h11",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.grace_s) + _LAST_REPLIES_S,
    )
    server = Server(config, registry, arrivals, images, settings.grace_s)
    listener = _listen(settings.host, settings.port)
    # Uvicorn handles them itself while it runs, and raises them again when it is done: then nothing is left to end.
    for number in _ENDING:
        signal.signal(number, server.handle_exit)
    # What stands by now stays. A long body makes so many lists that the collector would walk them over and over.
    gc.freeze()
    gc.set_threshold(_COLLECTED_OBJECTS)
    server.run(sockets=[listener])
    if not (registry.join(_LAST_BATCH_S) and (images is None or images.join(_LAST_BATCH_S))):
        # A thread within torch cannot be stopped, and the interpreter's own end aborts the process under it.
        logging.shutdown()
        os._exit(1 if model_died else 0)
    if model_died:
        raise ModelDiedError("the model can answer no more; the log says why")


def _listen(host: str, port: int) -> socket.socket:
    family, is_dual = (socket.AF_INET6, host == "::") if ":" in host else (socket.AF_INET, False)
    try:
        listener = socket.create_server((host, port), family=family, dualstack_ipv6=is_dual)
    except OSError as error:
        raise ConfigError(f"NER_HOST, NER_PORT: cannot listen on {host}, port {port}: {error.strerror}") from None
    logger.info("listening on %s, port %d", host, listener.getsockname()[1])
    return listener


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _Formatter(logging.Formatter):
    """Tells an exception by its kind and place: its own words may quote a text."""

    def formatException(self, ei: _ExceptionInfo) -> str:
        kind, _, trace = ei
        return "".join(traceback.format_tb(trace)) + (kind.__name__ if kind else "")
