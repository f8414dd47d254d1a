#include "options.h"

#include <algorithm>
#include <initializer_list>

namespace retentive::harness {

const char *const usage = R"(Checks the CUDA kernels against the C++ reference and measures their speed.

  retentive_harness check [--quick] [--filter TEXT] [--list] [--plugins LIBRARY] [--json FILE] [--commit NAME]
  retentive_harness sweep [--quick] [--filter TEXT] [--list] [--plugins LIBRARY] [--json FILE] [--commit NAME]
  retentive_harness info

check   every case; a line for each that fails
sweep   the quick check, then decode and prefill speed by size; no speed is printed when a check failed
info    the GPU, as JSON

  --quick            few and small cases or sizes
  --filter TEXT      those whose name holds TEXT
  --list             print the names, run nothing
  --plugins LIBRARY  run the plugins of libretentive_plugins.so too; their bits must be those of the kernels
  --json FILE        results as JSON
  --commit NAME      noted in the JSON

Exit code: 0 passed, 1 a check failed, 2 wrong arguments, 3 nothing could be run.
)";

namespace {

bool among(const std::string &text, std::initializer_list<const char *> accepted) {
    return std::find(accepted.begin(), accepted.end(), text) != accepted.end();
}

} // namespace

Options parse_options(int count, const char *const *arguments) {
    if (count < 2) throw UsageError("a command is needed: check, sweep or info");
    Options options;
    options.command = arguments[1];
    for (int i = 1; i < count; ++i)
        if (among(arguments[i], {"help", "--help", "-h"})) options.command = "help";
    if (options.command == "help") return options;
    if (!among(options.command, {"check", "sweep", "info"}))
        throw UsageError("the command is '" + options.command + "'; accepted: check, sweep or info");
    for (int i = 2; i < count; ++i) {
        const std::string name = arguments[i];
        const bool known =
            options.command != "info" && (among(name, {"--quick", "--list", "--filter", "--json", "--plugins"}) ||
                                          (name == "--commit" && options.command == "sweep"));
        if (!known) throw UsageError(options.command + " takes no argument '" + name + "'");
        if (name == "--quick" || name == "--list") {
            (name == "--quick" ? options.quick : options.list) = true;
            continue;
        }
        if (++i == count || arguments[i][0] == '\0') throw UsageError(name + " needs a value");
        (name == "--filter"    ? options.filter
         : name == "--json"    ? options.json
         : name == "--plugins" ? options.plugins
                               : options.commit) = arguments[i];
    }
    return options;
}

} // namespace retentive::harness
