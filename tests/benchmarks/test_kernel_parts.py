"""Kinds of kernels, by names that a profile of a step on an H200 has."""

import pytest

from benchmarks.kernel_parts import kind_of, sums_by_kind

NAMES = {
    "nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_bias_TNT": "products",
    "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>": "products",
    "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x64_1x4x1_cga1x1x1_kernel0_0": "attention",
    "void cudnn::fusion::compute_dot_do_o_specialized<true, 64>(void const*)": "attention",
    "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float, false>(int)": "norms",
    "void at::native::(anonymous namespace)::GammaBetaBackwardCUDAKernelTemplate<c10::BFloat16, float, 32u>": "norms",
    "add_norm_backward": "norms",
    "quick_gelu_forward": "activations",
    "void at::native::reduce_kernel<128, 4, at::native::ReduceOp<c10::BFloat16, sum_functor> >": "sums over rows",
    "void at::native::vectorized_elementwise_kernel<8, at::native::CUDAFunctor_add<c10::BFloat16>, std::array<char*, 3ul> >": "sums of two",
    "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedOptimizerTensorListMetadata<4> >": "update",
    "void at::native::(anonymous namespace)::fused_dropout_kernel_vec<c10::BFloat16, float, unsigned int, 1, 8, bool>": "dropout",
    "void at::native::(anonymous namespace)::CatArrayBatchedCopy_vectorized<OpaqueType<2u> >": "copies and selections",
    "something new": "rest",
}


@pytest.mark.parametrize(("name", "kind"), NAMES.items())
def test_kind_of_a_kernel(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_sums() -> None:
    assert list(sums_by_kind([("nvjet_a", 1.0), ("nothing", 5.0), ("nvjet_b", 2.5)]).items()) == [("rest", 5.0), ("products", 3.5)]
