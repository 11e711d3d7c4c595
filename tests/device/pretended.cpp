// A device that is not the CPU, in the CPU's memory.
//
// Its tensors carry the device of torch's PrivateUse1, and every operator runs the CPU's kernel on the same memory. What
// a real accelerator refuses is refused: operands on two devices, a generator of the host, numpy. Bytes held, calls of
// each operator, and what goes between host and device are counted. No code of Python's is in here, so that one build
// serves every version of it.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr auto KIND = c10::DeviceType::PrivateUse1;
const c10::Device DEVICE(KIND, 0);
const c10::DispatchKeySet OF_DEVICE(c10::DispatchKey::PrivateUse1), OF_HOST(c10::DispatchKey::CPU);

// to these an accelerator takes a tensor () of the host, as the number that is in it
const std::set<std::string> POINTWISE = {
    "__lshift__", "__rshift__", "_index_put_impl", "add", "addcdiv", "addcmul", "atan2", "bitwise_and",
    "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "clamp", "clamp_max", "clamp_min",
    "copysign", "div", "eq", "fill", "floor_divide", "fmod", "ge", "gt", "index_put", "ldexp", "le", "lerp",
    "logical_and", "logical_or", "lt", "masked_fill", "maximum", "minimum", "mul", "ne", "pow", "remainder", "rsub",
    "sub", "where"};
// these take indices of the host
const std::set<std::string> INDEXING = {"_index_put_impl", "_unsafe_index", "index", "index_put"};

int64_t held = 0, peak = 0;             // bytes of all tensors of the device
std::map<std::string, int64_t> counts;  // calls by operator, and what goes between host and device

void hold(int64_t bytes) {
  held += bytes;
  peak = std::max(peak, held);
}

// memory of the host as the device's, counted until it is given back
template <typename Owner>
c10::DataPtr counted(Owner owner, void* data, int64_t bytes) {
  struct Held {
    Owner owner;
    int64_t bytes;
  };
  hold(bytes);
  auto give_back = [](void* context) {
    auto* gone = static_cast<Held*>(context);
    held -= gone->bytes;
    delete gone;
  };
  return {data, new Held{std::move(owner), bytes}, give_back, DEVICE};
}

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto memory = c10::GetAllocator(c10::kCPU)->allocate(bytes);
    void* data = memory.get();
    return counted(std::move(memory), data, bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
} allocator;

struct Generator final : at::CPUGeneratorImpl {
  at::Generator host = at::detail::createCPUGenerator();
  Generator() {
    device_ = DEVICE;
    key_set_ = OF_DEVICE;
  }
  void set_current_seed(uint64_t seed) override { host.set_current_seed(seed); }
  uint64_t current_seed() const override { return host.current_seed(); }
  uint64_t seed() override { return host.seed(); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return host.get_state().getIntrusivePtr(); }
  void set_state(const c10::TensorImpl& state) override { host.unsafeGetGeneratorImpl()->set_state(state); }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  at::Generator generator = at::make_generator<Generator>();
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return generator; }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<Generator>(); }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isAvailable() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isPinnedPtr(const void*) const override { return false; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void init() const override {}
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto larger = allocator.allocate(bytes);
    std::memcpy(larger.get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(larger));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
} hooks;

REGISTER_ALLOCATOR(KIND, &allocator);
C10_REGISTER_GUARD_IMPL(PrivateUse1, c10::impl::NoOpDeviceGuardImpl<KIND>);
[[maybe_unused]] const bool registered = (at::RegisterPrivateUse1HooksInterface(&hooks), true);

// ---- tensors of the device and of the host on one memory ----

bool is_ours(const at::Tensor& x) { return x.defined() && x.device().type() == KIND; }

at::Tensor like(const at::Tensor& x, c10::Storage storage, c10::DispatchKeySet where) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), where, x.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(x.sizes(), x.strides(), x.storage_offset());
  return made;
}

c10::Storage made_of(size_t bytes, c10::DataPtr data, c10::DeviceType kind) {
  return {c10::Storage::use_byte_size_t(), bytes, std::move(data), c10::GetAllocator(kind), true};
}

c10::Storage taken_over(c10::Storage host) {
  const size_t bytes = host.nbytes();
  void* data = host.mutable_data();
  return made_of(bytes, counted(std::move(host), data, bytes), KIND);
}

at::Tensor on_host(const at::Tensor& ours) {
  auto* owner = new c10::Storage(ours.storage());
  auto let_go = [](void* context) { delete static_cast<c10::Storage*>(context); };
  c10::DataPtr data(owner->mutable_data(), owner, let_go, c10::kCPU);
  return like(ours, made_of(ours.storage().nbytes(), std::move(data), c10::kCPU), OF_HOST);
}

at::Tensor on_device(const at::Tensor& host) { return like(host, taken_over(host.storage()), OF_DEVICE); }

// ---- any operator: the CPU's kernel on the same memory ----

class Operator {
 public:
  explicit Operator(const c10::OperatorHandle& handle) : schema(handle.schema()) {
    name = schema.name().substr(schema.name().find("::") + 2);
    counts[name]++;
    if (name.size() > 1 && name.back() == '_' && name[name.size() - 2] != '_') name.pop_back();  // done in place
  }

  void take_arguments(torch::jit::Stack& stack) {
    const auto& arguments = schema.arguments();
    const size_t first = stack.size() - arguments.size();
    for (size_t i = 0; i < arguments.size(); i++) {
      auto& value = stack[first + i];
      const bool index = INDEXING.count(name) && arguments[i].name() == "indices";
      if (value.isTensor()) {
        value = taken(value.toTensor(), index);
      } else if (value.isTensorList()) {
        c10::List<at::Tensor> list;
        for (const at::Tensor& x : value.toTensorVector()) list.push_back(taken(x, index));
        value = std::move(list);
      } else if (value.isOptionalTensorList()) {
        c10::List<std::optional<at::Tensor>> list;
        for (const auto& x : value.toOptionalTensorVector())
          list.push_back(x ? std::optional<at::Tensor>(taken(*x, index)) : std::nullopt);
        value = std::move(list);
      } else if (value.isDevice() && value.toDevice().type() == KIND) {
        value = c10::Device(c10::kCPU);
      } else if (value.isGenerator()) {
        value = taken(value.toGenerator());
      }
    }
  }

  void give_results(torch::jit::Stack& stack) {
    for (auto& [ours, host] : operands) follow(ours, host);
    for (size_t i = stack.size() - schema.returns().size(); i < stack.size(); i++) {
      auto& value = stack[i];
      if (value.isTensor()) {
        value = given(value.toTensor());
      } else if (value.isTensorList()) {
        c10::List<at::Tensor> list;
        for (const at::Tensor& x : value.toTensorVector()) list.push_back(given(x));
        value = std::move(list);
      }
    }
  }

 private:
  at::Tensor taken(const at::Tensor& x, bool index) {
    if (!x.defined()) return x;
    if (!is_ours(x)) {
      TORCH_CHECK(index || (x.dim() == 0 && POINTWISE.count(name)), "Expected all tensors to be on the same device: ",
                  name, " was given one on ", x.device(), " of shape ", x.sizes(), " beside those on ", DEVICE);
      return x;
    }
    // reading by a mask asks for its nonzero elements itself
    if (index && x.scalar_type() == at::kBool && name == "_index_put_impl") counts["nonzero"]++;
    for (auto& [ours, host] : operands)
      if (ours.is_same(x)) return host;
    operands.emplace_back(x, on_host(x));
    return operands.back().second;
  }

  at::Generator taken(const at::Generator& generator) {
    if (generator.device().type() == KIND) return static_cast<Generator*>(generator.unsafeGetGeneratorImpl())->host;
    TORCH_CHECK(operands.empty(), "Expected a '", DEVICE, "' device type for generator but found '",
                generator.device(), "'");
    return generator;
  }

  // what the kernel resized
  void follow(const at::Tensor& ours, const at::Tensor& host) {
    auto* tensor = ours.unsafeGetTensorImpl();
    const auto &now = host.storage(), &before = ours.storage();
    if (now.data() != before.data() || now.nbytes() != before.nbytes())
      tensor->set_storage_keep_dtype(taken_over(now));
    if (host.sizes() != ours.sizes() || host.strides() != ours.strides())
      tensor->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
  }

  at::Tensor given(const at::Tensor& x) {
    if (!x.defined() || is_ours(x)) return x;
    for (auto& [ours, host] : operands) {
      if (host.is_same(x)) return ours;
      if (host.storage().is_alias_of(x.storage())) return like(x, ours.storage(), OF_DEVICE);
    }
    return on_device(x);
  }

  const c10::FunctionSchema& schema;
  std::string name;
  std::vector<std::pair<at::Tensor, at::Tensor>> operands;  // of the device, and the same on the host
};

void run_on_host(const c10::OperatorHandle& handle, torch::jit::Stack* stack) {
  Operator run(handle);
  run.take_arguments(*stack);
  handle.redispatchBoxed(OF_HOST, stack);
  run.give_results(*stack);
}

// ---- what has no kernel of the CPU's, or must be seen ----

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator, OF_DEVICE, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &allocator, OF_DEVICE, c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  const char* way = !is_ours(from) ? "to_device" : is_ours(to) ? "copy_" : "to_host";
  counts[way]++;
  at::Tensor target = is_ours(to) ? on_host(to) : to;
  target.copy_(is_ours(from) ? on_host(from) : from);
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  if (from.sizes() != to.sizes()) to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar item(const at::Tensor& x) {
  counts["item"]++;
  return on_host(x).item();
}

const at::Tensor& resize(const at::Tensor& x, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
  const size_t needed = at::detail::computeStorageNbytesContiguous(size, x.element_size(), x.storage_offset());
  if (needed > x.storage().nbytes()) hooks.resizePrivateUse1Bytes(x.storage(), needed);
  x.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return x;
}

at::Tensor& set_storage(at::Tensor& x, at::Storage source, int64_t offset, c10::IntArrayRef size,
                        c10::IntArrayRef stride) {
  x.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(source));
  x.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return x;
}

at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       c10::IntArrayRef stride, c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
                       c10::IntArrayRef output_padding, int64_t groups) {
  const bool biased = bias && bias->defined();
  TORCH_CHECK(is_ours(x) && is_ours(weight) && (!biased || is_ours(*bias)),
              "Expected all tensors to be on the same device: convolution was given one of the host");
  counts["convolution"]++;
  const auto added = biased ? std::optional<at::Tensor>(on_host(*bias)) : std::nullopt;
  return on_device(at::convolution(on_host(x), on_host(weight), added, stride, padding, dilation, transposed,
                                   output_padding, groups));
}

// products and a softmax, which have kernels; an accelerator's fused attention is not here
int64_t plain_attention(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                        double, bool, std::optional<double>, bool) {
  return 0;
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("_copy_from", copy_from);
  library.impl("_copy_from_and_resize", copy_from_and_resize);
  library.impl("_fused_sdp_choice", plain_attention);
  library.impl("_local_scalar_dense", item);
  library.impl("_reshape_alias", at::native::_reshape_alias);
  library.impl("as_strided", at::native::as_strided_tensorimpl);
  library.impl("convolution_overrideable", convolution);
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("resize_", resize);
  library.impl("set_.source_Storage_storage_offset", set_storage);
  library.impl("unfold", at::native::unfold);
  library.impl("view", at::native::view);
}

c10::Dict<std::string, int64_t> counted_calls() {
  c10::Dict<std::string, int64_t> found;
  for (const auto& [name, calls] : counts) found.insert(name, calls);
  return found;
}

void forget() {
  counts.clear();
  peak = held;
}

TORCH_LIBRARY(pretended, library) {
  library.def("held() -> int", [] { return held; });
  library.def("peak() -> int", [] { return peak; });
  library.def("counts() -> Dict(str, int)", counted_calls);
  library.def("forget_peak() -> ()", [] { peak = held; });
  library.def("forget() -> ()", forget);
}

}  // namespace
