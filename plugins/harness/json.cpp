#include "json.h"

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace retentive::harness {
namespace {

std::FILE *create(const std::string &beside, const std::string &path) {
    std::FILE *file = std::fopen(beside.c_str(), "w");
    if (file == nullptr) throw std::runtime_error("cannot create '" + path + "': " + std::strerror(errno));
    return file;
}

} // namespace

Json &Json::key(const std::string &name) {
    value(name);
    text_ += ": ";
    after_key_ = true;
    return *this;
}

Json &Json::value(const std::string &text) {
    std::string quoted = "\"";
    for (const char c : text) {
        char escaped[8];
        if (c == '"' || c == '\\')
            quoted += {'\\', c};
        else if (static_cast<unsigned char>(c) < 0x20)
            std::snprintf(escaped, sizeof escaped, "\\u%04x", c), quoted += escaped;
        else
            quoted += c;
    }
    return raw(quoted + '"');
}

Json &Json::value(double number) {
    if (!std::isfinite(number)) return null();
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.9g", number);
    return raw(digits);
}

Json &Json::open(char bracket) {
    separate();
    text_ += bracket;
    ++depth_;
    first_ = true;
    return *this;
}

Json &Json::close(char bracket) {
    --depth_;
    if (!first_) text_ += '\n' + std::string(2 * depth_, ' ');
    text_ += bracket;
    first_ = false;
    return *this;
}

Json &Json::raw(const std::string &text) {
    separate();
    text_ += text;
    return *this;
}

void Json::separate() {
    if (!after_key_ && depth_ > 0) text_ += (first_ ? "\n" : ",\n") + std::string(2 * depth_, ' ');
    after_key_ = first_ = false;
}

void write_file(const std::string &path, const std::string &text) {
    const std::string beside = path + ".part";
    std::FILE *file = create(beside, path);
    const bool whole = std::fwrite(text.data(), 1, text.size(), file) == text.size() && std::fflush(file) == 0 &&
                       fsync(fileno(file)) == 0;
    const bool closed = std::fclose(file) == 0;
    if (whole && closed && std::rename(beside.c_str(), path.c_str()) == 0) return;
    const std::string reason = std::strerror(errno);
    std::remove(beside.c_str());
    throw std::runtime_error("cannot write '" + path + "': " + reason);
}

void check_creatable(const std::string &path) {
    const std::string beside = path + ".part";
    std::fclose(create(beside, path));
    std::remove(beside.c_str());
}

} // namespace retentive::harness
