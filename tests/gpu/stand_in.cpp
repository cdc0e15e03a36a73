// A CUDA device for a PyTorch without CUDA: its tensors lie in the memory of the CPU, whose kernels compute them.
//
// As on a GPU, an operation refuses tensors of different devices, and reading a value, or copying without pinned memory,
// counts as waiting for the device. The memory of live tensors is limited. Nothing is asynchronous, there is no Triton and
// numbers are those of the CPU. Load the library before torch is imported.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <mutex>
#include <set>

namespace {

using at::IValue;
using at::Tensor;
const c10::Device GPU(c10::kCUDA, 0);
std::atomic<int64_t> waits{0}, used{0}, peak{0}, limit{INT64_MAX};
std::atomic<size_t> small{64 * 1024};  // bytes that are copied to a GPU without waiting (CUDA programming guide)

// Memory.

void take(int64_t bytes) {
  TORCH_CHECK_WITH(OutOfMemoryError, used + bytes <= limit, "CUDA out of memory: ", used + bytes, " of ", limit.load());
  used += bytes;
  peak = std::max(peak.load(), used.load());
}

struct Block {
  c10::Storage host;
  int64_t bytes;
};

void release(void* block) {
  used -= static_cast<Block*>(block)->bytes;
  delete static_cast<Block*>(block);
}

// The memory of a CPU storage, as memory of the device.
c10::DataPtr device_memory(const c10::Storage& host) {
  const auto bytes = static_cast<int64_t>(host.nbytes());
  take(bytes);
  return {const_cast<void*>(host.data()), new Block{host, bytes}, &release, GPU};
}

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto* allocator = c10::GetAllocator(c10::kCPU);
    return device_memory(c10::Storage(c10::Storage::use_byte_size_t(), bytes, allocator->allocate(bytes), allocator));
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { memcpy(to, from, bytes); }
} device_allocator;

std::mutex pinned_mutex;
std::set<const void*> pinned;

void unpin(void* memory) {
  {
    const std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned.erase(memory);
  }
  free(memory);
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* memory = aligned_alloc(64, (bytes + 64) / 64 * 64);
    const std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned.insert(memory);
    return {memory, memory, &unpin, c10::kCPU};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { memcpy(to, from, bytes); }
} pinned_allocator;

// The device and its one stream.

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device exchangeDevice(c10::Device) const override { return GPU; }
  c10::Device getDevice() const override { return GPU; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, GPU); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, GPU); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

// A generator of the device, whose numbers are those of the CPU.
struct DeviceGenerator final : c10::GeneratorImpl {
  at::Generator host = at::detail::createCPUGenerator();
  DeviceGenerator() : c10::GeneratorImpl(GPU, c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}
  void set_current_seed(uint64_t seed) override { host.set_current_seed(seed); }
  uint64_t current_seed() const override { return host.current_seed(); }
  uint64_t seed() override { return host.seed(); }
  void set_offset(uint64_t offset) override { host.set_offset(offset); }
  uint64_t get_offset() const override { return host.get_offset(); }
  void set_state(const c10::TensorImpl& state) override { host.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return host.unsafeGetGeneratorImpl()->get_state(); }
  GeneratorImpl* clone_impl() const override {
    auto* copy = new DeviceGenerator;
    copy->host = host.clone();
    return copy;
  }
};

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  int getNumGPUs() const override { return 1; }
  at::DeviceIndex deviceCount() const override { return 1; }
  at::DeviceIndex getCurrentDevice() const override { return 0; }
  at::DeviceIndex exchangeDevice(at::DeviceIndex) const override { return 0; }
  at::DeviceIndex maybeExchangeDevice(at::DeviceIndex) const override { return 0; }
  void setCurrentDevice(at::DeviceIndex) const override {}
  bool hasPrimaryContext(at::DeviceIndex) const override { return true; }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  bool isPinnedPtr(const void* memory) const override {
    const std::lock_guard<std::mutex> lock(pinned_mutex);
    return pinned.count(memory) > 0;
  }
  at::Generator getNewGenerator(at::DeviceIndex) const override { return at::make_generator<DeviceGenerator>(); }
};

// Tensors with the memory of another one on the other device, and kernels.

using Pairs = std::vector<std::pair<Tensor, Tensor>>;  // on the device, on the CPU

Tensor view_of(c10::Storage storage, const Tensor& like, c10::DispatchKey key) {
  auto result = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return result;
}

Tensor on_cpu(const Tensor& tensor) {
  auto* memory = const_cast<void*>(tensor.storage().data());
  auto* allocator = c10::GetAllocator(c10::kCPU);
  const auto bytes = tensor.storage().nbytes();
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, c10::DataPtr(memory, c10::kCPU), allocator, true);
  return view_of(std::move(storage), tensor, c10::DispatchKey::CPU);
}

c10::Storage device_storage(const Tensor& host) {
  auto memory = device_memory(host.storage());
  const auto bytes = host.storage().nbytes();
  return {c10::Storage::use_byte_size_t(), bytes, std::move(memory), &device_allocator, true};
}

Tensor on_device(const Tensor& host, const Pairs& arguments) {
  if (!host.defined() || !host.is_cpu()) return host;
  for (const auto& [tensor, copy] : arguments) {
    if (copy.unsafeGetTensorImpl() == host.unsafeGetTensorImpl()) return tensor;
    if (copy.storage().unsafeGetStorageImpl() == host.storage().unsafeGetStorageImpl())
      return view_of(tensor.storage(), host, c10::DispatchKey::CUDA);
  }
  return view_of(device_storage(host), host, c10::DispatchKey::CUDA);
}

template <typename Change>
IValue changed(const IValue& value, const Change& change) {
  if (value.isTensor()) return change(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> result;
    for (const Tensor& tensor : value.toTensorVector()) result.push_back(change(tensor));
    return result;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> result;
    for (const std::optional<Tensor> tensor : value.toOptionalTensorList())
      result.push_back(tensor ? std::optional<Tensor>(change(*tensor)) : tensor);
    return result;
  }
  return value;
}

// True for tensor[indices] and tensor[indices] = values.
bool takes_indices(const std::string& name) {
  return name == "aten::index" || name == "aten::index_put" || name == "aten::index_put_" ||
         name == "aten::_index_put_impl_";
}

// True for operations whose result or its size the CPU needs.
bool reads(const std::string& name) {
  static const std::set<std::string> names = {
      "aten::_local_scalar_dense", "aten::equal",      "aten::nonzero",    "aten::masked_select",
      "aten::repeat_interleave",   "aten::bincount",   "aten::_unique2",   "aten::unique_dim",
      "aten::unique_consecutive",  "aten::histc",
  };
  return names.count(name) > 0;
}

// True for the mask of tensor[mask], whose true values are counted.
bool has_mask(const IValue& value) {
  if (!value.isOptionalTensorList()) return false;
  for (const std::optional<Tensor> index : value.toOptionalTensorList())
    if (index && index->defined() && index->is_cuda() && index->scalar_type() == at::kBool) return true;
  return false;
}

void compute(const c10::OperatorHandle& operation, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = operation.schema();
  const size_t first = stack->size() - schema.arguments().size();
  Pairs arguments;
  bool has_host = false, waits_for_result = reads(schema.name());
  std::optional<c10::Device> device;
  for (size_t i = first; i < stack->size(); i++) {
    IValue& value = (*stack)[i];
    if (value.isDevice()) device = value.toDevice(), value = c10::Device(c10::kCPU);
    if (value.isGenerator() && value.toGenerator().device().is_cuda())
      value = value.toGenerator().get<DeviceGenerator>()->host;
    waits_for_result |= has_mask(value);
    value = changed(value, [&](const Tensor& tensor) -> Tensor {
      if (tensor.defined() && tensor.is_cpu() && tensor.dim() > 0) has_host = true;  // the CPU may have scalars
      if (!tensor.defined() || !tensor.is_cuda()) return tensor;
      for (const auto& [known, copy] : arguments)
        if (known.unsafeGetTensorImpl() == tensor.unsafeGetTensorImpl()) return copy;
      arguments.emplace_back(tensor, on_cpu(tensor));
      return arguments.back().second;
    });
  }
  const bool mixed = has_host && !arguments.empty();
  const bool copies_indices = mixed && takes_indices(schema.name());
  TORCH_CHECK(!mixed || copies_indices, "Expected all tensors to be on the same device: ", schema.name());
  if (copies_indices || waits_for_result) waits++;
  operation.callBoxed(stack);
  for (const auto& [tensor, copy] : arguments) {  // resized, or given other memory
    auto* changed_tensor = tensor.unsafeGetTensorImpl();
    if (copy.storage().data() != tensor.storage().data()) changed_tensor->set_storage_keep_dtype(device_storage(copy));
    changed_tensor->set_sizes_and_strides(copy.sizes(), copy.strides(), copy.storage_offset());
  }
  if (device ? device->is_cpu() : arguments.empty()) return;
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); i++)
    (*stack)[i] = changed((*stack)[i], [&](const Tensor& tensor) { return on_device(tensor, arguments); });
}

Tensor& copy_(Tensor& to, const Tensor& from, bool non_blocking) {
  const at::NoGradGuard guard;
  const Tensor& host = to.is_cuda() ? from : to;
  if (host.is_cpu()) {
    const bool may_wait = to.is_cpu() || from.nbytes() > small;
    if (!non_blocking || (may_wait && !host.is_pinned())) waits++;
  }
  (to.is_cuda() ? on_cpu(to) : to).copy_(from.is_cuda() ? on_cpu(from) : from);
  return to;
}

int64_t unfused(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool,
                std::optional<double>, bool) {
  return 0;  // at::SDPBackend::math
}

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>());
}
TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("copy_", &copy_);
  library.impl("_fused_sdp_choice", &unfused);
}
const bool is_registered = (c10::SetAllocator(c10::kCUDA, &device_allocator), true);

}  // namespace

namespace at {
namespace {
C10_REGISTER_TYPED_CLASS(CUDAHooksRegistry, "CUDAHooks", Hooks);
}
}  // namespace at

extern "C" {
int64_t gpu_waits() { return waits; }
int64_t gpu_memory() { return used; }
int64_t gpu_peak() { return peak; }
int64_t gpu_limit() { return limit; }
void gpu_reset_peak() { peak = used.load(); }
void gpu_set_limit(int64_t bytes) { limit = bytes; }
void gpu_set_small(int64_t bytes) { small = bytes; }
}
