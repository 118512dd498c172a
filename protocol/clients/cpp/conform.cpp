// The client as a program for `biblioteca conform --client` (see protocol/conformance).
#include "biblioteca.hpp"

#include <iostream>

static int fail(const std::string& code) {
    std::cout << "{\"error\": \"" << code << "\"}\n";
    return 0;
}

int main(int argc, char** argv) try {
    if (argc < 2) return 2;
    biblioteca::Options options;
    options.timeout_s = 3;
    biblioteca::Client client(argv[1], options);
    int pieces = 0;
    biblioteca::Value reply = client.finish(client.start("say", {{"agent", "echo"}, {"text", "Good evening."}}),
        [&pieces](const biblioteca::Part& part) { pieces += part.t == "delta"; });
    std::cout << "{\"text\": \"" << reply["text"].str() << "\", \"pieces\": " << pieces
              << ", \"seed\": " << reply["seed"].get<std::int64_t>() << "}\n";
} catch (const biblioteca::Refusal& error) {
    return fail(error.code);
} catch (const biblioteca::FrameError&) {
    return fail("bad_frame");
} catch (const biblioteca::VersionError&) {
    return fail("version");
} catch (const biblioteca::KeyRefusedError&) {
    return fail("key_refused");
} catch (const biblioteca::NoServerError&) {
    return fail("no_server");
}
