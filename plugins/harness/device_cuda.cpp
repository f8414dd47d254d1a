/* A GPU, through the CUDA runtime. */
#include "device.h"

#include <dlfcn.h>

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <vector>

#include "cuda_status.h"

namespace retentive::harness {
namespace {

constexpr size_t guard_bytes = 16;
constexpr unsigned char guard_byte = 0xa5;

cudaStream_t stream_of(void *handle) { return static_cast<cudaStream_t>(handle); }

/* The driver's own version, which the CUDA runtime does not tell. */
std::string driver_version() {
    void *nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (nvml == nullptr) return "unknown";
    const auto init = reinterpret_cast<int (*)()>(dlsym(nvml, "nvmlInit_v2"));
    const auto version = reinterpret_cast<int (*)(char *, unsigned)>(dlsym(nvml, "nvmlSystemGetDriverVersion"));
    const auto shutdown = reinterpret_cast<int (*)()>(dlsym(nvml, "nvmlShutdown"));
    char text[96] = "unknown";
    if (init != nullptr && version != nullptr && init() == 0) {
        if (version(text, sizeof text) != 0) text[0] = '\0';
        if (shutdown != nullptr) shutdown();
    }
    dlclose(nvml);
    return text;
}

/* The time between two events on a stream. */
class Interval {
  public:
    Interval() {
        check_cuda(cudaEventCreate(&start_), "cudaEventCreate");
        check_cuda(cudaEventCreate(&stop_), "cudaEventCreate");
    }
    ~Interval() {
        cudaEventDestroy(start_);
        cudaEventDestroy(stop_);
    }
    Interval(const Interval &) = delete;
    Interval &operator=(const Interval &) = delete;

    void begin(cudaStream_t stream) { check_cuda(cudaEventRecord(start_, stream), "cudaEventRecord"); }
    /* Waits; microseconds. */
    double end(cudaStream_t stream) {
        float milliseconds = 0.0F;
        check_cuda(cudaEventRecord(stop_, stream), "cudaEventRecord");
        check_cuda(cudaEventSynchronize(stop_), "cudaEventSynchronize");
        check_cuda(cudaEventElapsedTime(&milliseconds, start_, stop_), "cudaEventElapsedTime");
        return 1e3 * static_cast<double>(milliseconds);
    }

  private:
    cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

GraphNodes count_nodes(cudaGraph_t graph) {
    size_t total = 0;
    check_cuda(cudaGraphGetNodes(graph, nullptr, &total), "cudaGraphGetNodes");
    std::vector<cudaGraphNode_t> nodes(total);
    if (total > 0) check_cuda(cudaGraphGetNodes(graph, nodes.data(), &total), "cudaGraphGetNodes");
    GraphNodes count;
    for (const cudaGraphNode_t node : nodes) {
        cudaGraphNodeType type{};
        check_cuda(cudaGraphNodeGetType(node, &type), "cudaGraphNodeGetType");
        ++(type == cudaGraphNodeTypeKernel ? count.kernels : count.others);
    }
    return count;
}

} // namespace

std::optional<std::string> missing_device() {
    int devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&devices);
    if (error != cudaSuccess) return std::string("CUDA finds no GPU that it can use: ") + cudaGetErrorString(error);
    if (devices == 0) return "this machine has no NVIDIA GPU";
    return std::nullopt;
}

DeviceInfo device_info() {
    int device = 0, runtime = 0, driver = 0;
    cudaDeviceProp properties{};
    check_cuda(cudaGetDevice(&device), "cudaGetDevice");
    check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    check_cuda(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
    check_cuda(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    return {properties.name,
            std::to_string(properties.major) + "." + std::to_string(properties.minor),
            driver_version(),
            runtime,
            driver,
            properties.multiProcessorCount,
            properties.totalGlobalMem,
            static_cast<size_t>(properties.l2CacheSize)};
}

Stream::Stream() {
    cudaStream_t stream = nullptr;
    check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    handle_ = stream;
}

Stream::~Stream() { cudaStreamDestroy(stream_of(handle_)); }

void Stream::synchronize() const { check_cuda(cudaStreamSynchronize(stream_of(handle_)), "cudaStreamSynchronize"); }

Event::Event() {
    cudaEvent_t event = nullptr;
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    handle_ = event;
}

Event::~Event() { cudaEventDestroy(static_cast<cudaEvent_t>(handle_)); }

void Event::record(void *stream) {
    check_cuda(cudaEventRecord(static_cast<cudaEvent_t>(handle_), stream_of(stream)), "cudaEventRecord");
}

void Event::hold(void *stream) const {
    check_cuda(cudaStreamWaitEvent(stream_of(stream), static_cast<cudaEvent_t>(handle_), 0), "cudaStreamWaitEvent");
}

struct Graph::Implementation {
    cudaStream_t stream;
    int32_t status = 0;
    GraphNodes nodes;
    cudaGraphExec_t executable = nullptr;
    Interval interval;
};

Graph::Graph(Stream &stream, const Launch &launch) : implementation_(new Implementation{}) {
    Implementation &self = *implementation_;
    self.stream = stream_of(stream.handle());
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamBeginCapture(self.stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    self.status = launch(stream.handle()); /* does not throw: it is C or says so by its status */
    check_cuda(cudaStreamEndCapture(self.stream, &graph), "cudaStreamEndCapture");
    self.nodes = count_nodes(graph);
    const cudaError_t error = cudaGraphInstantiate(&self.executable, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(error, "cudaGraphInstantiate");
}

Graph::~Graph() {
    if (implementation_->executable != nullptr) cudaGraphExecDestroy(implementation_->executable);
}

std::optional<GraphNodes> Graph::nodes() const { return implementation_->nodes; }

int32_t Graph::replay() {
    check_cuda(cudaGraphLaunch(implementation_->executable, implementation_->stream), "cudaGraphLaunch");
    check_cuda(cudaStreamSynchronize(implementation_->stream), "cudaStreamSynchronize");
    return implementation_->status;
}

double Graph::time_replay() {
    Implementation &self = *implementation_;
    self.interval.begin(self.stream);
    check_cuda(cudaGraphLaunch(self.executable, self.stream), "cudaGraphLaunch");
    return self.interval.end(self.stream);
}

Buffer::Buffer(size_t bytes, Stream &stream, bool guarded)
    : bytes_(bytes), stream_(&stream), guard_(guarded ? guard_bytes : 0) {
    void *memory = nullptr;
    check_cuda(cudaMalloc(&memory, bytes_ + 2 * guard_), "cudaMalloc");
    allocation_ = static_cast<unsigned char *>(memory);
    data_ = allocation_ + guard_;
    if (guard_ == 0) return;
    check_cuda(cudaMemsetAsync(allocation_, guard_byte, guard_, stream_of(stream_->handle())), "cudaMemset");
    check_cuda(cudaMemsetAsync(data_ + bytes_, guard_byte, guard_, stream_of(stream_->handle())), "cudaMemset");
}

Buffer::Buffer(Buffer &&other) noexcept
    : bytes_(other.bytes_), stream_(other.stream_), guard_(other.guard_), allocation_(other.allocation_),
      data_(other.data_) {
    other.allocation_ = nullptr;
}

Buffer::~Buffer() { cudaFree(allocation_); }

void Buffer::fill(unsigned char byte) {
    check_cuda(cudaMemsetAsync(data_, byte, bytes_, stream_of(stream_->handle())), "cudaMemset");
}

void Buffer::upload(const void *source) {
    check_cuda(cudaMemcpyAsync(data_, source, bytes_, cudaMemcpyHostToDevice, stream_of(stream_->handle())),
               "cudaMemcpy to the device");
    stream_->synchronize();
}

void Buffer::download(void *target) const {
    check_cuda(cudaMemcpyAsync(target, data_, bytes_, cudaMemcpyDeviceToHost, stream_of(stream_->handle())),
               "cudaMemcpy to the host");
    stream_->synchronize();
}

bool Buffer::guards_intact() const {
    if (guard_ == 0) return true;
    std::vector<unsigned char> bytes(2 * guard_);
    const cudaStream_t stream = stream_of(stream_->handle());
    check_cuda(cudaMemcpyAsync(bytes.data(), allocation_, guard_, cudaMemcpyDeviceToHost, stream), "cudaMemcpy");
    check_cuda(cudaMemcpyAsync(bytes.data() + guard_, data_ + bytes_, guard_, cudaMemcpyDeviceToHost, stream),
               "cudaMemcpy");
    stream_->synchronize();
    for (unsigned char byte : bytes)
        if (byte != guard_byte) return false;
    return true;
}

double Buffer::time_copy(const Buffer &source) {
    const cudaStream_t stream = stream_of(stream_->handle());
    Interval interval;
    interval.begin(stream);
    check_cuda(cudaMemcpyAsync(data_, source.data_, bytes_, cudaMemcpyDeviceToDevice, stream), "cudaMemcpy");
    return interval.end(stream);
}

} // namespace retentive::harness
