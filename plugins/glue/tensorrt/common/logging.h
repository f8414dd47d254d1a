/* TensorRT's logger for the plugins, and the one place where exceptions become logged failures. */
#ifndef RETENTIVE_TENSORRT_LOGGING_H_
#define RETENTIVE_TENSORRT_LOGGING_H_

#include <exception>
#include <stdexcept>

#include <NvInferRuntime.h>

namespace retentive::tensorrt {

/* Bad use of a plugin: what is wrong, its value, what would be accepted. */
class PluginError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

/* printf-style text as a PluginError. */
[[noreturn]] void refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* TensorRT hands this to the library right after loading it; nullptr takes it back. */
void set_logger_finder(nvinfer1::ILoggerFinder *finder) noexcept;

/* To the logger of the engine or builder that called us; to stderr where TensorRT gave none. */
void log(nvinfer1::ILogger::Severity severity, const char *text) noexcept;

/* Where an error arose: operator, layer (may be empty) and method of the plugin interface. */
struct Caller {
    const char *op;
    const char *layer;
    const char *method;
};

/* Logs "<op> '<layer>' <method>: <what>" as an error. */
void log_error(const Caller &caller, const char *what) noexcept;

/* What body() returns; if it throws, the reason is logged and `failure` is returned. Every override that TensorRT calls
 * and that can fail goes through here, so that no exception reaches a noexcept boundary. */
template <typename Result, typename Body> Result guarded(const Caller &caller, Result failure, Body &&body) noexcept {
    try {
        return body();
    } catch (const std::exception &error) {
        log_error(caller, error.what());
    } catch (...) {
        log_error(caller, "unknown exception");
    }
    return failure;
}

} // namespace retentive::tensorrt

#endif /* RETENTIVE_TENSORRT_LOGGING_H_ */
