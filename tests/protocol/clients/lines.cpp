// lines CONNECTION TIMEOUT_S: says the lines of its input, each AGENT TEXT, one after the other;
// prints JSON once one is spoken, and once it has ended.
#include "biblioteca.hpp"

#include <iostream>
#include <random>

static void fail(const std::string& code, const std::string& message) {
    std::cout << "{\"error\": \"" << code << "\", \"message\": \"" << message << "\"}" << std::endl;
}

int main(int argc, char** argv) {
    if (argc < 3) return 2;
    biblioteca::Options options;
    options.timeout_s = std::stod(argv[2]);
    biblioteca::Client client(argv[1], options);
    for (std::string line; std::getline(std::cin, line);) {
        std::size_t space = line.find(' ');
        bool began = false;
        try {
            biblioteca::Map body{{"agent", line.substr(0, space)}, {"text", line.substr(space + 1)}};
            auto call = client.start("say", body, 0, "line" + std::to_string(std::random_device{}()));
            biblioteca::Value reply = client.finish(call, [&began](const biblioteca::Part& part) {
                if (part.t == "delta" && !std::exchange(began, true)) std::cout << "{\"began\": true}" << std::endl;
            });
            std::cout << "{\"text\": \"" << reply["text"].str() << "\", \"address\": \"" << client.address() << "\"}" << std::endl;
        } catch (const biblioteca::Refusal& error) {
            fail(error.code, error.what());
        } catch (const biblioteca::NoServerError& error) {
            fail("no_server", error.what());
        }
    }
}
