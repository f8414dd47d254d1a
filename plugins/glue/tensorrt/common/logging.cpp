#include "common/logging.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>

namespace retentive::tensorrt {
namespace {

std::atomic<nvinfer1::ILoggerFinder *> logger_finder{nullptr};

} // namespace

void refuse(const char *format, ...) {
    char text[768];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    throw PluginError(text);
}

void set_logger_finder(nvinfer1::ILoggerFinder *finder) noexcept { logger_finder = finder; }

void log(nvinfer1::ILogger::Severity severity, const char *text) noexcept {
    try {
        nvinfer1::ILoggerFinder *finder = logger_finder;
        nvinfer1::ILogger *logger = finder == nullptr ? nullptr : finder->findLogger();
        if (logger != nullptr) {
            logger->log(severity, text);
            return;
        }
    } catch (...) {
        // The finder is the application's code; a message that it cannot take goes to stderr.
    }
    std::fprintf(stderr, "%s\n", text);
}

void log_error(const Caller &caller, const char *what) noexcept {
    char text[1024];
    const bool named = caller.layer != nullptr && caller.layer[0] != '\0';
    std::snprintf(text, sizeof text, "%s%s%s%s %s: %s", caller.op, named ? " '" : "", named ? caller.layer : "",
                  named ? "'" : "", caller.method, what);
    log(nvinfer1::ILogger::Severity::kERROR, text);
}

} // namespace retentive::tensorrt
