"""Which TensorRT, GPU and bindings go together, and what is said where they do not."""

from __future__ import annotations

import pytest
from strict_device import StrictDriver
from strict_tensorrt import StrictCache, StrictConfig, StrictContext, StrictEngine, StrictTensorRt

from ofer_models.bundle.manifest import BundleError
from ofer_models.bundle.tensors import StageError
from ofer_models.runtime import backend as choice
from ofer_models.runtime import engine_cache
from ofer_models.runtime.stages import StageSet
from ofer_models.runtime.tensorrt import api, cuda_driver
from ofer_models.runtime.tensorrt.cuda_driver import current_gpu


@pytest.fixture()
def driver():
    return StrictDriver()


@pytest.fixture()
def trt(driver):
    return StrictTensorRt(driver)


class TestVersions:
    @pytest.mark.parametrize(
        ("flavour", "version", "said"),
        [
            ("tensorrt", "8.5.2.2", "tensorrt 8.5.2.2 is too old, 10.3 is the least"),
            ("tensorrt", "8.6.2", "too old"), ("tensorrt", "10.0.1", "too old"), ("tensorrt", "10.3.0", ""),
            ("tensorrt", "11.1.0", ""), ("tensorrt_rtx", "1.1.0", "1.2 is the least"), ("tensorrt_rtx", "1.7.1", ""),
        ],
    )  # fmt: skip
    def test_the_least_is_checked(self, driver, flavour, version, said):
        found = api.unusable(StrictTensorRt(driver, flavour, version))
        assert (said in found) if said else found == ""

    def test_an_old_one_is_refused_when_it_is_loaded(self, driver, monkeypatch):
        old = StrictTensorRt(driver, "tensorrt", "8.5.2")
        monkeypatch.setattr(api.importlib.util, "find_spec", lambda name: name == "tensorrt" or None)
        monkeypatch.setattr(api.importlib, "import_module", lambda name: old)
        with pytest.raises(StageError, match=r"8\.5\.2 is too old.*JetPack 6\.1"):
            api.load()

    @pytest.mark.parametrize(("gpu", "instead"), [("sm87", "JetPack's `tensorrt`"), ("sm90", "NVIDIA's `tensorrt`")])
    def test_a_gpu_that_rtx_does_not_know_is_told_what_it_takes(self, trt, gpu, instead):
        with pytest.raises(StageError, match=f"not build for {gpu}, only for sm75.*takes {instead}, or backend torch"):
            api.refuse_gpu(trt, gpu)
        api.refuse_gpu(trt, "sm89")

    def test_auto_does_not_take_an_rtx_that_does_not_know_the_gpu(self, open_bundle, monkeypatch, caplog):
        driver = StrictDriver((9, 0), "NVIDIA H100")
        monkeypatch.setattr(cuda_driver, "load_driver", lambda: driver)
        monkeypatch.setattr(api, "load", lambda: StrictTensorRt(driver))
        monkeypatch.setattr(api, "installed", lambda: "tensorrt_rtx")
        monkeypatch.setattr(engine_cache, "entries", lambda path, suffixes: [1])
        assert choice.open_backend("auto", open_bundle).name == "onnxruntime"
        assert "does not build for sm90" in caplog.text


class TestStandIns:
    def test_the_gpu_is_named(self):
        gpu = current_gpu(StrictDriver((8, 7), "Orin"))
        assert (gpu.name, gpu.capability) == ("Orin", "sm87")

    def test_every_method_of_the_stand_in_is_one_of_the_real_tensorrt(self):
        real = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (requirements/test.txt)")
        pairs = {
            StrictEngine: (real.ICudaEngine, set()), StrictContext: (real.IExecutionContext, set()),
            StrictConfig: (real.IRuntimeConfig, set()), StrictCache: (real.IRuntimeCache, set()),
        }  # fmt: skip
        for ours, (theirs, extra) in pairs.items():
            methods = {name for name, value in vars(ours).items() if callable(value) and not name.startswith("_")}
            assert methods and methods - extra <= set(dir(theirs)), ours
        for name in ("ExecutionContextAllocationStrategy", "DynamicShapesKernelSpecializationStrategy",
                     "CudaGraphStrategy"):  # fmt: skip
            assert {member.name for member in getattr(StrictTensorRt, name)} <= set(dir(getattr(real, name)))
        assert {"num_optimization_profiles", "num_io_tensors"} <= set(dir(real.ICudaEngine))
        assert {"dynamic_shapes_kernel_specialization_strategy", "cuda_graph_strategy"} <= set(dir(real.IRuntimeConfig))
        assert api.unusable(real) == "" and "sm86" in api.targets(real)


def test_auto_takes_tensorrt_only_with_gpu_and_engines(open_bundle, monkeypatch):
    chosen = []
    monkeypatch.setattr("ofer_models.runtime.tensorrt.backend.TensorRtBackend.here", lambda path: chosen.append(path))
    present = {"engines": True, "tensorrt": True, "gpu": True}
    monkeypatch.setattr(engine_cache, "entries", lambda path, suffixes: [1] if present["engines"] else [])
    monkeypatch.setattr("ofer_models.runtime.tensorrt.api.installed", lambda: present["tensorrt"] and "tensorrt_rtx")

    def here():
        if not present["gpu"]:
            raise cuda_driver.NoGpu("no NVIDIA GPU here")

    monkeypatch.setattr("ofer_models.runtime.tensorrt.backend.here", here)
    choice.open_backend("auto", open_bundle)
    assert chosen == [open_bundle.path]
    for missing in present:
        present[missing] = False
        assert choice.open_backend("auto", open_bundle).name == "onnxruntime"
        present[missing] = True
    assert len(chosen) == 1


def test_without_a_gpu_tensorrt_says_so(open_bundle):
    from ofer_models.runtime.tensorrt.cuda_driver import gpu_present

    if gpu_present():
        pytest.skip("there is a GPU")
    with pytest.raises(BundleError, match="TensorRT is not installed|no NVIDIA GPU here|cannot be imported"):
        StageSet(open_bundle, backend="tensorrt")
