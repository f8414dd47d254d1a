/* Results as JSON. */
#ifndef RETENTIVE_HARNESS_JSON_H_
#define RETENTIVE_HARNESS_JSON_H_

#include <cstdint>
#include <string>

namespace retentive::harness {

/* Writes values in the order of the calls; `key` stands before a value inside an object and nowhere else. */
class Json {
  public:
    Json &begin_object() { return open('{'); }
    Json &begin_array() { return open('['); }
    Json &end_object() { return close('}'); }
    Json &end_array() { return close(']'); }
    Json &key(const std::string &name);

    Json &value(const std::string &text);
    Json &value(const char *text) { return value(std::string(text)); }
    Json &value(bool truth) { return raw(truth ? "true" : "false"); }
    Json &value(int32_t number) { return raw(std::to_string(number)); }
    Json &value(int64_t number) { return raw(std::to_string(number)); }
    Json &value(size_t number) { return raw(std::to_string(number)); }
    /* null when it is not finite. */
    Json &value(double number);
    Json &null() { return raw("null"); }
    template <typename T> Json &member(const std::string &name, const T &content) { return key(name).value(content); }

    const std::string &text() const { return text_; }

  private:
    Json &open(char bracket);
    Json &close(char bracket);
    Json &raw(const std::string &text);
    void separate();

    std::string text_;
    size_t depth_ = 0;
    bool first_ = true; /* of its object or array */
    bool after_key_ = false;
};

/* Written beside and renamed: a file of that name is whole, or the old one. Throws std::runtime_error. */
void write_file(const std::string &path, const std::string &text);
/* Throws what write_file would throw where no file can be created: before the work, not after it. */
void check_creatable(const std::string &path);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_JSON_H_ */
