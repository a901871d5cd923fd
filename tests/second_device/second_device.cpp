// A device that is real to PyTorch, and is the host's memory and ATen's CPU kernels. It records where the host waits.
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/library.h>

namespace {

using at::Tensor;
constexpr auto kSecond = c10::DeviceType::PrivateUse1;
const c10::Device device(kSecond, 0);

// ------------------------------------------------------------------------------------------------ where the host waits

std::mutex mutex;
std::vector<std::string> waits;
std::atomic<bool> refused{false};
thread_local bool in_kernel = false;

struct Kernel {  // a CPU's; what it copies to get at its arguments, no device would
  const bool within = std::exchange(in_kernel, true);
  ~Kernel() { in_kernel = within; }
};

void wait_for(const std::string& what) {
  if (in_kernel) return;
  TORCH_CHECK(!refused, "the host would wait for the device: ", what);
  std::lock_guard<std::mutex> lock(mutex);
  waits.push_back(what);
}

// ------------------------------------------------------------------------------------------------ memory and copies

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* data = c10::GetCPUAllocator()->raw_allocate(size);
    return {data, data, c10::GetCPUAllocator()->raw_deleter(), device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return c10::GetCPUAllocator()->raw_deleter(); }
  void copy_data(void* to, const void* from, size_t size) const override { std::memcpy(to, from, size); }
} memory;
REGISTER_ALLOCATOR(kSecond, &memory);

using Options = std::optional<c10::Layout>;

Tensor empty(c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, Options, std::optional<c10::Device>,
             std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype, Options,
                     std::optional<c10::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

Tensor on_host(const Tensor& tensor) {  // the same memory
  return tensor.is_cpu() ? tensor : at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(),
                                                  tensor.options().device(at::kCPU));
}

Tensor copy_from(const Tensor& self, const Tensor& to, bool non_blocking) {
  if (self.device() != to.device() && !non_blocking) wait_for(to.is_cpu() ? "copy to the host" : "copy to the device");
  on_host(to).copy_(on_host(self));
  return to;
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& to) {
  to.resize_(self.sizes());
  return copy_from(self, to, false);
}

const Tensor& resize(const Tensor& self, c10::IntArrayRef size, std::optional<c10::MemoryFormat>) {
  auto* impl = self.unsafeGetTensorImpl();
  auto bytes = at::detail::computeStorageNbytesContiguous(size, self.dtype().itemsize(), self.storage_offset());
  if (bytes > self.storage().nbytes()) {
    auto data = memory.allocate(bytes);
    std::memcpy(data.get(), self.storage().data(), self.storage().nbytes());
    self.storage().set_data_ptr_noswap(std::move(data));
    self.storage().set_nbytes(bytes);
  }
  impl->set_sizes_contiguous(size);
  return self;
}

Tensor& set(Tensor& self, c10::Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_storage_offset(offset);
  stride.empty() ? impl->set_sizes_contiguous(size) : impl->set_sizes_and_strides(size, stride);
  return self;
}

at::Scalar item(const Tensor& self) {
  wait_for("item");
  return on_host(self).item();
}

// ------------------------------------------------------------------------------------------------ everything else

Tensor convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, c10::IntArrayRef stride,
                   c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed, c10::IntArrayRef output_padding,
                   int64_t groups) {
  const Kernel kernel;
  const auto b = bias && bias->defined() ? std::make_optional(on_host(*bias)) : std::nullopt;
  return at::convolution(on_host(x), on_host(weight), b, stride, padding, dilation, transposed, output_padding, groups)
      .to(device);
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& slopes, const Tensor& x, const Tensor& weight, c10::IntArrayRef stride, c10::IntArrayRef padding,
    c10::IntArrayRef dilation, bool transposed, c10::IntArrayRef output_padding, int64_t groups,
    std::array<bool, 3> wanted) {
  const Kernel kernel;
  const int64_t channels = slopes.size(1);
  auto [of_x, of_weight, of_bias] =
      at::convolution_backward(on_host(slopes), on_host(x), on_host(weight), c10::IntArrayRef(channels), stride, padding,
                               dilation, transposed, output_padding, groups, wanted);
  const auto moved = [](const Tensor& tensor) { return tensor.defined() ? tensor.to(device) : tensor; };
  return {moved(of_x), moved(of_weight), moved(of_bias)};
}

bool by_mask(const c10::List<std::optional<Tensor>>& indices) {
  for (std::optional<Tensor> index : indices)
    if (index && index->defined() && index->scalar_type() == at::kBool) return true;
  return false;
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  static const std::set<std::string> counting{"aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique2"};
  const std::string name = op.schema().name();
  if (counting.count(name)) wait_for(name);
  const bool puts = name == "aten::_index_put_impl_";
  for (const at::IValue& value : torch::jit::last(*stack, op.schema().arguments().size())) {
    std::vector<Tensor> tensors;
    if (value.isTensor()) tensors.push_back(value.toTensor());
    if (value.isTensorList()) tensors = value.toTensorVector();
    if (puts && value.isOptionalTensorList() && by_mask(value.toOptionalTensorList())) wait_for(name);
    for (const Tensor& tensor : tensors)
      TORCH_CHECK(!tensor.defined() || !tensor.is_cpu() || tensor.dim() == 0, name,
                  " expects all tensors to be on the same device; one was left on the host");
  }
  const Kernel kernel;
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("resize_", resize);
  m.impl("_local_scalar_dense", item);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("set_.source_Storage", at::native::set_);
  m.impl("set_.source_Storage_storage_offset", set);
  m.impl("native_group_norm", torch::CppFunction::makeFromBoxedFunction<&fallback>());  // else in parts, some wrong
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
  m.impl("record_stream", +[](Tensor&, c10::Stream) {});
}

// ------------------------------------------------------------------------------------------------ a single device

struct Guard final : c10::impl::NoOpDeviceGuardImpl<kSecond> {
  c10::Device exchangeDevice(c10::Device) const override { return device; }
  c10::Device getDevice() const override { return device; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getNewStream(c10::Device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return getStream(device); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  void synchronizeStream(const c10::Stream&) const override { wait_for("stream"); }
  void synchronizeEvent(void*) const override { wait_for("event"); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
};
const bool registered = (at::RegisterPrivateUse1HooksInterface(new Hooks), true);

struct Engine : torch::autograd::Engine {  // autograd counts devices once, which was before this one came
  using torch::autograd::Engine::start_device_threads;
};

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("begin_autograd", [] { (torch::autograd::Engine::get_default_engine().*(&Engine::start_device_threads))(); });
  m.def("wait_for", wait_for);
  m.def("refuse", [](bool refuse) { refused = refuse; });
  m.def("waits", [] {
    std::lock_guard<std::mutex> lock(mutex);
    return std::exchange(waits, {});
  });
}
