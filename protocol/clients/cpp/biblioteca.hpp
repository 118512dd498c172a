// A client of the biblioteca wire, version 1 (protocol/SPEC.md; section numbers below are its).
// One header, C++17; needs libzmq (-lzmq) and msgpack-cxx (headers only, without boost).
#pragma once

#ifndef MSGPACK_NO_BOOST
#define MSGPACK_NO_BOOST
#endif
#include <msgpack.hpp>
#include <zmq.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <utility>
#include <variant>
#include <vector>

namespace biblioteca {

// --- values: what a body is made of (section 2) ------------------------------------------------

struct Value;
using Array = std::vector<Value>;
using Map = std::map<std::string, Value>;

/// A nil, bool, whole number, float, string, array or map.
struct Value {
    std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, Array, Map> v = nullptr;
    Value() = default;
    Value(std::nullptr_t) {}
    Value(bool b) : v(b) {}
    Value(int i) : v(std::int64_t{i}) {}
    Value(std::int64_t i) : v(i) {}
    Value(double d) : v(d) {}
    Value(const char* s) : v(std::string(s)) {}
    Value(std::string s) : v(std::move(s)) {}
    Value(Array a) : v(std::move(a)) {}
    Value(Map m) : v(std::move(m)) {}

    bool is_nil() const { return std::holds_alternative<std::nullptr_t>(v); }
    /// The value as a T, or `otherwise` if it is something else.
    template <typename T> T get(T otherwise = {}) const {
        const T* found = std::get_if<T>(&v);
        return found ? *found : otherwise;
    }
    std::string str() const { return get<std::string>(); }
    /// A map's field; nil if this is no map or has no such field.
    const Value& operator[](const std::string& key) const {
        static const Value nil;
        const Map* map = std::get_if<Map>(&v);
        if (!map) return nil;
        auto found = map->find(key);
        return found == map->end() ? nil : found->second;
    }
};

namespace detail {

inline void pack(msgpack::packer<msgpack::sbuffer>& out, const Value& value) {
    std::visit([&out](const auto& x) {
        using T = std::decay_t<decltype(x)>;
        if constexpr (std::is_same_v<T, std::nullptr_t>) out.pack_nil();
        else if constexpr (std::is_same_v<T, Array>) {
            out.pack_array(static_cast<std::uint32_t>(x.size()));
            for (const Value& item : x) pack(out, item);
        } else if constexpr (std::is_same_v<T, Map>) {
            out.pack_map(static_cast<std::uint32_t>(x.size()));
            for (const auto& [key, item] : x) { out.pack(key); pack(out, item); }
        } else out.pack(x);
    }, value.v);
}

inline Value unpack(const msgpack::object& object) {
    switch (object.type) {
    case msgpack::type::NIL: return nullptr;
    case msgpack::type::BOOLEAN: return object.via.boolean;
    case msgpack::type::POSITIVE_INTEGER: return static_cast<std::int64_t>(object.via.u64);
    case msgpack::type::NEGATIVE_INTEGER: return object.via.i64;
    case msgpack::type::FLOAT32:
    case msgpack::type::FLOAT64: return object.via.f64;
    case msgpack::type::STR: return std::string(object.via.str.ptr, object.via.str.size);
    case msgpack::type::ARRAY: {
        Array array;
        for (std::uint32_t i = 0; i < object.via.array.size; ++i) array.push_back(unpack(object.via.array.ptr[i]));
        return array;
    }
    case msgpack::type::MAP: {
        Map map;
        for (std::uint32_t i = 0; i < object.via.map.size; ++i) {
            const auto& pair = object.via.map.ptr[i];
            if (pair.key.type != msgpack::type::STR) throw msgpack::type_error();
            map[std::string(pair.key.via.str.ptr, pair.key.via.str.size)] = unpack(pair.val);
        }
        return map;
    }
    default: throw msgpack::type_error(); // bin and ext are refused
    }
}

constexpr double turn_s = 1; // without a connection before the next address is tried

inline double now_s() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Enough of a JSON reader for a connection file: strings, numbers, null, arrays, flat or nested objects.
class Json {
public:
    explicit Json(std::string text) : text_(std::move(text)) {}
    Value read() {
        skip();
        if (at_ >= text_.size()) throw std::runtime_error("it ends too early");
        switch (text_[at_]) {
        case '{': return object();
        case '[': return array();
        case '"': return string();
        case 'n': at_ += 4; return nullptr;
        case 't': at_ += 4; return true;
        case 'f': at_ += 5; return false;
        default: return number();
        }
    }

private:
    void skip() { while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_])) ++at_; }
    void expect(char c) {
        skip();
        if (at_ >= text_.size() || text_[at_++] != c) throw std::runtime_error(std::string("no '") + c + "' where one is due");
    }
    Value object() {
        Map map;
        expect('{');
        for (skip(); at_ < text_.size() && text_[at_] != '}'; skip()) {
            if (!map.empty()) { expect(','); skip(); }
            std::string key = string();
            expect(':');
            map[key] = read();
        }
        expect('}');
        return map;
    }
    Value array() {
        Array items;
        expect('[');
        for (skip(); at_ < text_.size() && text_[at_] != ']'; skip()) {
            if (!items.empty()) expect(',');
            items.push_back(read());
        }
        expect(']');
        return items;
    }
    std::string string() {
        std::string out;
        expect('"');
        while (at_ < text_.size() && text_[at_] != '"') {
            if (text_[at_] == '\\' && at_ + 1 < text_.size()) {
                char c = text_[++at_];
                if (c == 'u') { at_ += 4; c = '?'; } // names only; keys and addresses are ASCII
                out += c == 'n' ? '\n' : c == 't' ? '\t' : c;
                ++at_;
            } else out += text_[at_++];
        }
        expect('"');
        return out;
    }
    Value number() {
        std::size_t used = 0;
        double value = std::stod(text_.substr(at_), &used);
        at_ += used;
        return value;
    }
    std::string text_;
    std::size_t at_ = 0;
};

} // namespace detail

// --- errors --------------------------------------------------------------------------------------

struct Error : std::runtime_error { using std::runtime_error::runtime_error; };
/// A request that ended in an `error` message (section 6).
struct Refusal : Error {
    std::string code, field;
    bool retryable;
    std::int64_t retry_ms;
    explicit Refusal(const Value& body)
        : Error(body["message"].str()), code(body["code"].str()), field(body["field"].str()),
          retryable(body["retryable"].get<bool>()), retry_ms(body["retry_ms"].get<std::int64_t>()) {}
};
struct FrameError : Error { using Error::Error; };      ///< No message, or out of order.
struct NoServerError : Error { using Error::Error; };   ///< Nobody answers.
struct KeyRefusedError : Error { using Error::Error; }; ///< One side doesn't accept the other's key.
struct VersionError : Error { using Error::Error; };    ///< No protocol version in common.

// --- calls ---------------------------------------------------------------------------------------

/// One message of a call: `t` is accepted, delta, done, welcome or pong.
struct Part {
    std::string t;
    Value body;
};

/// One request and what has come back.
struct Call {
    std::string id, type;
    Value envelope;
    std::string text;        ///< all deltas so far
    std::deque<Part> parts;  ///< what came since somebody last took it
    Value reply;             ///< what ended it well
    std::exception_ptr error; ///< what ended it otherwise
    bool ended = false;
    std::int64_t next_seq = 0;
    bool begun = false;

    void fail(std::exception_ptr why) {
        if (ended) return;
        error = std::move(why);
        ended = true;
    }
    void take(const std::string& t, const Value& seq, const Value& body) {
        if (t == "accepted" && begun) return; // seen before a resume
        if (t != "accepted" && !seq.is_nil()) {
            std::int64_t number = seq.get<std::int64_t>(-1);
            if (number < next_seq) return; // likewise
            if (number > next_seq)
                return fail(std::make_exception_ptr(FrameError(
                    id + ": seq is " + std::to_string(number) + ", " + std::to_string(next_seq) + " was next")));
            ++next_seq;
        }
        begun = true;
        if (t == "delta") text += body["text"].str();
        else if (t != "accepted") { reply = body; ended = true; }
        parts.push_back({t, body});
    }
};
using CallPtr = std::shared_ptr<Call>;

struct Options {
    std::string name;
    double timeout_s = 5, heartbeat_s = 1, resume_s = 30;
    std::int64_t credit = -1; ///< below 0: no limit (section 5.5)
};

/// Where the connection file is unless told otherwise (section 1.1).
inline std::string default_path() {
    if (const char* named = std::getenv("BIBLIOTECA_CONNECTION")) return named;
    if (const char* runtime = std::getenv("XDG_RUNTIME_DIR")) return std::string(runtime) + "/biblioteca/default.json";
    return "/tmp/biblioteca-" + std::to_string(getuid()) + "/default.json";
}

// --- the client ----------------------------------------------------------------------------------

/// A session with a server. Not for several threads at once.
class Client {
public:
    /// Connects to the server that wrote this connection file, and says hello.
    explicit Client(const std::string& path = default_path(), Options options = {})
        : Client(read_connection(path), std::move(options)) {}
    /// Connects to the server that a connection, such as `{{"work", ...}, {"others", Array{...}}}`, names.
    explicit Client(Map connection, Options options = {}) : options_(std::move(options)), connection_(std::move(connection)) {
        addresses_.push_back(connection_["work"].str());
        for (const Value& other : connection_["others"].get<Array>()) addresses_.push_back(other["work"].str());
        open();
        try {
            dial();
            greet();
            double deadline = detail::now_s() + options_.timeout_s;
            CallPtr hello = greeting_;
            while (!hello->ended && detail::now_s() < deadline) wait_once(0.1);
            if (!hello->ended) throw NoServerError("nobody answers at " + every_address() + "; is the server running?");
            if (hello->error) std::rethrow_exception(hello->error);
        } catch (...) {
            close();
            throw;
        }
    }
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;
    ~Client() { close(); }

    /// What the server said about itself.
    Value welcome;
    /// Of the server it now turns to: the first of the list or another one.
    const std::string& address() const { return addresses_[present_]; }
    /// Called with notices, and with errors that belong to no request.
    std::function<void(const Value&)> on_notice = [](const Value&) {};
    std::function<void(const std::string&)> on_fault = [](const std::string&) {};

    /// Sends a request and returns its call at once. `ttl_ms`, `idem`: sections 5.1, 5.2.
    CallPtr start(const std::string& t, Map body = {}, std::int64_t ttl_ms = 0, const std::string& idem = "") {
        auto call = std::make_shared<Call>();
        call->id = "p" + std::to_string(++num_requests_);
        call->type = t;
        Map envelope{{"t", t}, {"id", call->id}, {"body", std::move(body)}};
        if (ttl_ms > 0) envelope["ttl_ms"] = ttl_ms;
        if (!idem.empty()) envelope["idem"] = idem;
        call->envelope = envelope;
        calls_[call->id] = call;
        post(call->envelope);
        return call;
    }
    /// Sends and receives all that is possible now; never blocks. Call it once per frame.
    void poll() {
        watch();
        receive_all();
        tick();
        flush();
    }
    /// Stops a call; it ends with a `cancelled` refusal.
    void cancel(const CallPtr& call) { start("cancel", {{"target", call->id}}); }
    /// Allows the server more deltas, where the options set a credit.
    void grant(std::int64_t deltas) { post(Map{{"t", "credit"}, {"body", Map{{"deltas", deltas}}}}); }

    /// Waits for a call's end, handing over each part; returns the reply or throws.
    Value finish(const CallPtr& call, const std::function<void(const Part&)>& each = [](const Part&) {}) {
        for (;;) {
            for (; !call->parts.empty(); call->parts.pop_front()) each(call->parts.front());
            if (call->ended) break;
            wait_once(0.25);
        }
        if (call->error) std::rethrow_exception(call->error);
        return call->reply;
    }
    /// Sends a request and waits for its reply.
    Value request(const std::string& t, Map body = {}) { return finish(start(t, std::move(body))); }
    /// Says something to a character; `each` gets its words, piece by piece.
    Value say(const std::string& agent, const std::string& text, const std::function<void(const std::string&)>& each) {
        return finish(start("say", {{"agent", agent}, {"text", text}}), [&each](const Part& part) {
            if (part.t == "delta") each(part.body["text"].str());
        });
    }
    /// Ends the session.
    void close() {
        if (!socket_) return;
        if (!welcome.is_nil()) { start("bye"); flush(); }
        zmq_socket_monitor(socket_, nullptr, 0);
        zmq_close(monitor_);
        zmq_close(socket_);
        zmq_ctx_term(context_);
        socket_ = nullptr;
    }

private:
    static Map read_connection(const std::string& path) {
        std::ifstream file(path);
        if (!file) throw NoServerError("no server's connection file at " + path + "; start one with 'biblioteca serve'");
        std::stringstream text;
        text << file.rdbuf();
        try {
            return detail::Json(text.str()).read().get<Map>();
        } catch (const std::exception& error) {
            throw NoServerError("the connection file " + path + " can't be read: " + error.what());
        }
    }
    std::string every_address() const {
        std::string all = addresses_[0];
        for (std::size_t i = 1; i < addresses_.size(); ++i) all += " or " + addresses_[i];
        return all;
    }

    void open() {
        context_ = zmq_ctx_new();
        socket_ = zmq_socket(context_, ZMQ_DEALER);
        set(ZMQ_LINGER, 200);
        set(ZMQ_RECONNECT_IVL, 100);
        set(ZMQ_RECONNECT_IVL_MAX, 2000);
        set(ZMQ_HEARTBEAT_IVL, 5000);
        set(ZMQ_HEARTBEAT_TIMEOUT, 15000);
        set(ZMQ_IMMEDIATE, addresses_.size() > 1); // what is sent meanwhile waits for whichever server comes
        std::string server_key = connection_["server_key"].str();
        if (!server_key.empty()) {
            std::string own_public = connection_["client_key"]["public"].str();
            std::string own_secret = connection_["client_key"]["secret"].str();
            if (own_public.empty()) { // the server will say that it doesn't know us
                char pub[41], sec[41];
                zmq_curve_keypair(pub, sec);
                own_public = pub;
                own_secret = sec;
            }
            set(ZMQ_CURVE_SERVERKEY, server_key);
            set(ZMQ_CURVE_PUBLICKEY, own_public);
            set(ZMQ_CURVE_SECRETKEY, own_secret);
        }
        const char* events = "inproc://biblioteca.monitor";
        zmq_socket_monitor(socket_, events, ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
            ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH);
        monitor_ = zmq_socket(context_, ZMQ_PAIR);
        zmq_connect(monitor_, events);
    }
    void dial() {
        if (zmq_connect(socket_, address().c_str()) != 0)
            throw NoServerError("'" + address() + "' is no address: " + zmq_strerror(zmq_errno()));
    }
    void set(int option, int value) { zmq_setsockopt(socket_, option, &value, sizeof value); }
    void set(int option, const std::string& value) { zmq_setsockopt(socket_, option, value.c_str(), value.size()); }

    void greet() {
        Map hello{{"versions", Array{1}}, {"client", options_.name},
                  {"resume_ms", static_cast<std::int64_t>(options_.resume_s * 1000)}};
        if (options_.credit >= 0) hello["credit"] = options_.credit;
        if (!welcome.is_nil()) { hello["session"] = welcome["session"]; hello["token"] = welcome["token"]; }
        greeting_ = start("hello", hello);
    }
    void send_again(const CallPtr& call) {
        calls_.erase(call->id);
        call->id = "p" + std::to_string(++num_requests_); // ids are used once
        std::get<Map>(call->envelope.v)["id"] = call->id;
        calls_[call->id] = call;
        post(call->envelope);
    }
    void post(const Value& envelope) {
        msgpack::sbuffer buffer;
        msgpack::packer<msgpack::sbuffer> packer(buffer);
        detail::pack(packer, envelope);
        outbox_.emplace_back(buffer.data(), buffer.size());
        flush();
    }
    void flush() {
        while (socket_ && !outbox_.empty()) {
            if (zmq_send(socket_, "NPC/1", 5, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) return; // full: next time
            zmq_send(socket_, outbox_.front().data(), outbox_.front().size(), 0);
            outbox_.pop_front();
        }
    }
    void wait_once(double seconds) {
        zmq_pollitem_t items[] = {{socket_, 0, ZMQ_POLLIN, 0}, {monitor_, 0, ZMQ_POLLIN, 0}};
        zmq_poll(items, 2, static_cast<long>(seconds * 1000));
        poll();
    }
    static bool next(void* socket, std::vector<std::string>& frames) {
        frames.clear();
        int more = 1;
        while (more) {
            zmq_msg_t message;
            zmq_msg_init(&message);
            if (zmq_msg_recv(&message, socket, ZMQ_DONTWAIT) < 0) { zmq_msg_close(&message); return false; }
            frames.emplace_back(static_cast<char*>(zmq_msg_data(&message)), zmq_msg_size(&message));
            more = zmq_msg_more(&message);
            zmq_msg_close(&message);
        }
        return true;
    }
    void receive_all() {
        std::vector<std::string> frames;
        while (next(socket_, frames)) {
            heard_at_ = detail::now_s();
            pinged_at_ = 0;
            try {
                if (frames.size() != 2 || frames[0] != "NPC/1") throw FrameError("not a message of NPC/1");
                msgpack::unpack_limit limit(65536, 65536, 1 << 20, 1 << 20, 1 << 20, 64);
                msgpack::object_handle handle = msgpack::unpack(frames[1].data(), frames[1].size(), nullptr, nullptr, limit);
                receive(detail::unpack(handle.get()));
            } catch (const std::exception& error) {
                on_fault(error.what());
            }
        }
    }
    void receive(const Value& envelope) {
        const std::string t = envelope["t"].str();
        const Value& body = envelope["body"];
        static const char* known[] = {"accepted", "delta", "done", "error", "welcome", "pong", "notice"};
        bool is_known = false;
        for (const char* name : known) is_known = is_known || t == name;
        if (!is_known) return; // from a newer server (section 10)
        if (t == "notice") return on_notice(body);
        auto found = calls_.find(envelope["re"].str());
        if (found == calls_.end()) {
            if (t == "error" && envelope["re"].is_nil()) on_fault(body["message"].str());
            return;
        }
        CallPtr call = found->second;
        if (t == "error" && body["code"].str() == "no_session") return lost_session(call);
        if (t == "error") call->fail(error_of(body));
        else call->take(t, envelope["seq"], body);
        if (call->ended) calls_.erase(call->id);
        if (call == greeting_ && call->ended) greeted(call);
    }
    static std::exception_ptr error_of(const Value& body) {
        if (body["code"].str() == "bad_version") return std::make_exception_ptr(VersionError(body["message"].str()));
        return std::make_exception_ptr(Refusal(body));
    }
    /// The server doesn't know us (any more): hello again, then the call again (section 3).
    void lost_session(const CallPtr& call) {
        calls_.erase(call->id);
        if (call->type == "ping") call->fail(std::make_exception_ptr(NoServerError("the session is gone")));
        else unsent_.push_back(call);
        if (!greeting_) greet();
    }
    void greeted(const CallPtr& call) {
        greeting_ = nullptr;
        if (call->error) return give_up(call->error);
        bool first = welcome.is_nil();
        welcome = call->reply;
        std::vector<CallPtr> waiting;
        for (const auto& [id, open] : calls_) waiting.push_back(open);
        for (const CallPtr& again : std::exchange(unsent_, {})) send_again(again);
        if (first) return;
        for (const CallPtr& open : waiting) take_up(open, welcome["resumed"].get<bool>());
    }
    /// What was under way when the connection was lost (section 5.4).
    void take_up(const CallPtr& call, bool resumed) {
        if (call->type == "ping" || call->type == "hello" || call->type == "resume") return;
        if (resumed) { start("resume", {{"target", call->id}, {"seq", call->next_seq}}); return; }
        if (!call->envelope["idem"].is_nil() && call->next_seq == 0) return send_again(call);
        calls_.erase(call->id);
        call->fail(std::make_exception_ptr(Refusal(Value(Map{{"code", "no_session"}, {"retryable", true},
            {"message", "the server was restarted; send it again"}}))));
    }
    void tick() {
        double now = detail::now_s();
        bool silent = pinged_at_ > 0 && now - pinged_at_ > options_.timeout_s;
        if (silent) {
            pinged_at_ = 0;
            heard_at_ = now;
            std::ostringstream text;
            text << every_address() << " has not answered for " << options_.timeout_s << " s";
            give_up(std::make_exception_ptr(NoServerError(text.str())));
        } else if (pinged_at_ == 0 && !calls_.empty() && !welcome.is_nil() && now - heard_at_ > options_.heartbeat_s) {
            start("ping");
            pinged_at_ = now;
        }
        if (addresses_.size() > 1) turn_if_gone(now, silent);
    }
    /// Goes to the next address, round and round, while nobody is there (section 1.1).
    void turn_if_gone(double now, bool silent) {
        if (connected_ && !silent) {
            well_at_ = now;
        } else if (silent || now - well_at_ > detail::turn_s) {
            zmq_disconnect(socket_, address().c_str()); // fails only where no connection was begun
            connected_ = false;
            well_at_ = now;
            present_ = (present_ + 1) % addresses_.size();
            try {
                dial();
            } catch (const NoServerError& error) {
                on_fault(error.what());
            }
        }
    }
    void give_up(std::exception_ptr error) {
        greeting_ = nullptr;
        for (const CallPtr& call : std::exchange(unsent_, {})) call->fail(error);
        for (const auto& [id, call] : std::exchange(calls_, {})) call->fail(error);
    }
    /// The socket's own events tell a wrong key and a lost connection.
    void watch() {
        std::vector<std::string> frames;
        while (next(monitor_, frames)) {
            std::uint16_t event = 0;
            if (frames[0].size() >= 2) std::memcpy(&event, frames[0].data(), 2);
            bool first = !was_connected_;
            if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
                if (was_connected_ && greeting_) send_again(greeting_); // it went to the lost one
                else if (was_connected_) greet();
                connected_ = was_connected_ = true;
                continue;
            }
            connected_ = false;
            if (event != ZMQ_EVENT_DISCONNECTED || (first && !connection_["server_key"].is_nil())) {
                give_up(std::make_exception_ptr(KeyRefusedError(address() +
                    " refused the handshake: this client's key is unknown or revoked there, or the server's key is "
                    "not the one expected")));
            }
        }
    }

    Options options_;
    Value connection_;
    std::vector<std::string> addresses_;
    std::size_t present_ = 0;
    void* context_ = nullptr;
    void* socket_ = nullptr;
    void* monitor_ = nullptr;
    std::map<std::string, CallPtr> calls_;
    std::vector<CallPtr> unsent_;
    std::deque<std::string> outbox_;
    CallPtr greeting_;
    std::int64_t num_requests_ = 0;
    double heard_at_ = detail::now_s(), pinged_at_ = 0;
    double well_at_ = detail::now_s(); // when the server was last known to be there
    bool was_connected_ = false, connected_ = false;
};

} // namespace biblioteca
