/* The host's memory as the device, so that the whole harness runs where there is no GPU. */
#include "device.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

namespace retentive::harness {
namespace {

constexpr size_t guard_bytes = 16;
constexpr unsigned char guard_byte = 0xa5;
constexpr size_t alignment = 256;

double microseconds_of(const std::function<void()> &work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

} // namespace

std::optional<std::string> missing_device() { return std::nullopt; }

/* Small enough that what is sized by it takes a moment: the copy that measures bandwidth, the buffers in rotation. */
DeviceInfo device_info() { return {"host memory, no GPU", "none", "none", 0, 0, 1, size_t{1} << 28, size_t{1} << 18}; }

Stream::Stream() = default;
Stream::~Stream() = default;
void Stream::synchronize() const {}

Event::Event() = default;
Event::~Event() = default;
void Event::record(void *) {}
void Event::hold(void *) const {}

struct Graph::Implementation {
    Launch launch;
    void *stream;
};

Graph::Graph(Stream &stream, const Launch &launch) : implementation_(new Implementation{launch, stream.handle()}) {}
Graph::~Graph() = default;
std::optional<GraphNodes> Graph::nodes() const { return std::nullopt; }
int32_t Graph::replay() { return implementation_->launch(implementation_->stream); }
double Graph::time_replay() {
    return microseconds_of([&] { replay(); });
}

Buffer::Buffer(size_t bytes, Stream &stream, bool guarded)
    : bytes_(bytes), stream_(&stream), guard_(guarded ? guard_bytes : 0) {
    const size_t size = std::max((bytes_ + 2 * guard_ + alignment - 1) / alignment * alignment, alignment);
    allocation_ = static_cast<unsigned char *>(std::aligned_alloc(alignment, size));
    if (allocation_ == nullptr) throw std::bad_alloc();
    data_ = allocation_ + guard_;
    std::memset(allocation_, guard_byte, guard_);
    std::memset(data_ + bytes_, guard_byte, guard_);
}

Buffer::Buffer(Buffer &&other) noexcept
    : bytes_(other.bytes_), stream_(other.stream_), guard_(other.guard_), allocation_(other.allocation_),
      data_(other.data_) {
    other.allocation_ = nullptr;
}

Buffer::~Buffer() { std::free(allocation_); }
void Buffer::fill(unsigned char byte) { std::memset(data_, byte, bytes_); }
void Buffer::upload(const void *source) { std::memcpy(data_, source, bytes_); }
void Buffer::download(void *target) const { std::memcpy(target, data_, bytes_); }

bool Buffer::guards_intact() const {
    const auto intact = [](unsigned char byte) { return byte == guard_byte; };
    return std::all_of(allocation_, data_, intact) && std::all_of(data_ + bytes_, data_ + bytes_ + guard_, intact);
}

double Buffer::time_copy(const Buffer &source) {
    return microseconds_of([&] { std::memcpy(data_, source.data_, bytes_); });
}

} // namespace retentive::harness
