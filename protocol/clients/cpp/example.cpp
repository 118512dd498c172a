// ./example [AGENT] [TEXT]: says one line to a character of a running server.
#include "biblioteca.hpp"

#include <iostream>

int main(int argc, char** argv) try {
    biblioteca::Client client;
    std::string agent = argc > 1 ? argv[1] : "";
    if (agent.empty()) {
        auto agents = client.request("agents")["agents"].get<biblioteca::Array>();
        for (const auto& info : agents)
            if (agent.empty() && info["tier"].str() == "npc") agent = info["agent"].str();
    }
    client.say(agent, argc > 2 ? argv[2] : "Good evening.", [](const std::string& piece) { std::cout << piece << std::flush; });
    std::cout << "\n";
} catch (const biblioteca::Error& error) {
    std::cerr << error.what() << "\n";
    return 1;
}
