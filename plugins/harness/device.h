/* The little of a GPU that the checks need. device_cuda.cpp is a GPU, double/device_host.cpp the host's memory. */
#ifndef RETENTIVE_HARNESS_DEVICE_H_
#define RETENTIVE_HARNESS_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace retentive::harness {

/* Why nothing can run here, or nothing. */
std::optional<std::string> missing_device();

struct DeviceInfo {
    std::string name;
    std::string compute_capability;
    std::string driver;
    int32_t runtime_version; /* of CUDA, 1000 major + 10 minor */
    int32_t driver_cuda_version;
    int32_t multiprocessors;
    size_t memory_bytes;
    size_t l2_bytes;
};
DeviceInfo device_info();

/* Puts work on a stream; gives its RetentiveStatus. Must not throw. */
using Launch = std::function<int32_t(void *stream)>;

/* Failures of the device throw std::runtime_error. */
class Stream {
  public:
    Stream();
    ~Stream();
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    /* cudaStream_t */
    void *handle() const { return handle_; }
    void synchronize() const;

  private:
    void *handle_ = nullptr;
};

/* A point in a stream's work that another stream can wait for; inside of a capture too. */
class Event {
  public:
    Event();
    ~Event();
    Event(const Event &) = delete;
    Event &operator=(const Event &) = delete;

    void record(void *stream);
    /* The stream's later work waits; at once where nothing was recorded. */
    void hold(void *stream) const;

  private:
    void *handle_ = nullptr;
};

struct GraphNodes {
    size_t kernels = 0;
    size_t others = 0;
};

/* What a launch does, captured into a CUDA graph. Where there are no graphs a replay is the launch itself. */
class Graph {
  public:
    Graph(Stream &stream, const Launch &launch);
    ~Graph();
    Graph(const Graph &) = delete;
    Graph &operator=(const Graph &) = delete;

    /* Nothing where there are no graphs. */
    std::optional<GraphNodes> nodes() const;
    /* Runs it and waits; the launch's status. */
    int32_t replay();
    /* Microseconds of one replay, by the device's clock. */
    double time_replay();

  private:
    struct Implementation;
    std::unique_ptr<Implementation> implementation_;
};

/* Device memory of exactly `bytes` bytes, or with guards around them. */
class Buffer {
  public:
    Buffer(size_t bytes, Stream &stream, bool guarded);
    ~Buffer();
    Buffer(Buffer &&other) noexcept;
    Buffer &operator=(Buffer &&) = delete;

    void *data() const { return data_; }
    size_t bytes() const { return bytes_; }
    void fill(unsigned char byte);
    void upload(const void *source);
    void download(void *target) const;
    bool guards_intact() const;
    /* Fills it from a buffer of the same size; microseconds by the device's clock. */
    double time_copy(const Buffer &source);

  private:
    size_t bytes_;
    Stream *stream_;
    size_t guard_;
    unsigned char *allocation_ = nullptr;
    unsigned char *data_ = nullptr;
};

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_DEVICE_H_ */
