// Opens a plugin library as TensorRT does and prints the creators that it offers: name, version, namespace.
#include <NvInferRuntime.h>
#include <cstdint>
#include <cstdio>
#include <dlfcn.h>

namespace {

class Logger : public nvinfer1::ILogger {
  public:
    void log(Severity, const char *text) noexcept override { std::printf("log: %s\n", text); }
};

class Finder : public nvinfer1::ILoggerFinder {
  public:
    nvinfer1::ILogger *findLogger() override { return &logger_; }

  private:
    Logger logger_;
};

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        std::fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    using GetCreators = nvinfer1::IPluginCreatorInterface *const *(*)(int32_t &);
    using SetLoggerFinder = void (*)(nvinfer1::ILoggerFinder *);
    const auto get_creators = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"));
    const auto set_logger_finder = reinterpret_cast<SetLoggerFinder>(dlsym(library, "setLoggerFinder"));
    if (get_creators == nullptr || set_logger_finder == nullptr) return 1;
    static Finder finder;
    set_logger_finder(&finder);
    int32_t count = 0;
    nvinfer1::IPluginCreatorInterface *const *creators = get_creators(count);
    for (int32_t i = 0; i < count; ++i) {
        const auto *creator = static_cast<const nvinfer1::IPluginCreatorV3One *>(creators[i]);
        auto *fields = const_cast<nvinfer1::IPluginCreatorV3One *>(creator)->getFieldNames();
        std::printf("%s %s %s %d\n", creator->getPluginName(), creator->getPluginVersion(),
                    creator->getPluginNamespace(), fields->nbFields);
    }
    return 0;
}
