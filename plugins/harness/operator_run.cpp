#include "operator_run.h"

#include "retentive/launch.h"

namespace retentive::harness {
namespace {

/* 0xff makes NaN of every float type, row -1 of an index; 0x3c makes ordinary small numbers. */
constexpr unsigned char first_poison = 0xff, second_poison = 0x3c, third_poison = 0x81;

std::string joined(const std::vector<std::string> &names) {
    std::string text;
    for (const std::string &name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

/* The buffers of the runs of one operator. */
class Bench {
  public:
    Bench(Findings &findings, Stream &stream, const OperatorRun &run)
        : findings_(findings), stream_(stream), run_(run), outputs_(run.outputs, stream, true),
          workspace_(run.workspace_bytes, stream, true) {}

    std::optional<HostTensors> plain(unsigned char poison) {
        prepare(poison);
        return finish(launch(stream_.handle()));
    }
    std::optional<HostTensors> captured(unsigned char poison) {
        prepare(poison);
        Graph graph(stream_, [this](void *stream) { return launch(stream); });
        if (const auto nodes = graph.nodes()) judge(*nodes);
        graph.replay();
        /* Once more over what the first replay left in the workspace. */
        if (run_.before != nullptr) outputs_.upload(*run_.before);
        return finish(graph.replay());
    }
    void check_guards() {
        for (const std::string &name : outputs_.overrun())
            findings_.fail(run_.name + " writes beside its output " + name);
        if (!workspace_.guards_intact()) findings_.fail(run_.name + " writes beside its workspace");
    }

  private:
    void prepare(unsigned char poison) {
        outputs_.fill(poison);
        workspace_.fill(poison);
        if (run_.before != nullptr) outputs_.upload(*run_.before);
    }
    int32_t launch(void *stream) {
        const size_t bytes = run_.workspace_bytes;
        return run_.launch(outputs_, {bytes > 0 ? workspace_.data() : nullptr, bytes}, stream);
    }
    std::optional<HostTensors> finish(int32_t status) {
        if (status != RETENTIVE_OK) {
            findings_.fail(run_.name + " gives status " + std::to_string(status) + ": " + retentive_message());
            return std::nullopt;
        }
        stream_.synchronize();
        return outputs_.download();
    }
    void judge(const GraphNodes &nodes) {
        if (nodes.others > 0)
            findings_.fail(run_.name + " puts " + std::to_string(nodes.others) +
                           " nodes into a graph that are no kernels");
        if (run_.kernels && nodes.kernels != *run_.kernels)
            findings_.fail(run_.name + " takes " + std::to_string(nodes.kernels) + " kernels instead of " +
                           std::to_string(*run_.kernels));
    }

    Findings &findings_;
    Stream &stream_;
    const OperatorRun &run_;
    DeviceTensors outputs_;
    Buffer workspace_;
};

} // namespace

void same_bits(Findings &findings, const std::string &what, const HostTensors &actual, const HostTensors &expected) {
    if (const auto names = actual.differing(expected); !names.empty())
        findings.fail(what + " gives other bits: " + joined(names));
}

std::optional<HostTensors> run_operator(Findings &findings, Stream &stream, const OperatorRun &run) {
    Bench bench(findings, stream, run);
    std::optional<HostTensors> first = bench.plain(first_poison);
    if (!first) return std::nullopt;
    if (const auto again = bench.plain(second_poison))
        same_bits(findings, run.name + ", run a second time,", *again, *first);
    if (const auto replayed = bench.captured(third_poison))
        same_bits(findings, run.name + ", run from a graph,", *replayed, *first);
    bench.check_guards();
    return first;
}

} // namespace retentive::harness
