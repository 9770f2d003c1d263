#include "symbols.h"

#include <dlfcn.h>
#include <elf.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <unordered_map>

namespace cuda_host {
namespace {

struct Object {
    std::unordered_map<std::uintptr_t, std::string> functions;
    std::vector<std::span<std::byte>> shared_arrays;
};

[[noreturn]] void give_up(const char* what, const char* of) {
    std::fprintf(stderr, "cuda_host: %s: %s\n", of, what);
    std::abort();
}

bool is_local_static(std::string_view name) {  // _ZZ <function> E <name>
    if (!name.starts_with("_ZZ")) return false;
    for (const std::string_view others : {"_ZZN9cuda_host", "_ZZSt", "_ZZNSt", "_ZZNKSt"})
        if (name.starts_with(others)) return false;
    return true;
}

Object read_object() {
    Dl_info self;
    if (dladdr(reinterpret_cast<const void*>(&symbol_of), &self) == 0)
        give_up("not found by its own address", "the kernels' library");
    std::ifstream file(self.dli_fname, std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    if (bytes.size() < sizeof(Elf64_Ehdr)) give_up("cannot be read", self.dli_fname);

    const auto* header = reinterpret_cast<const Elf64_Ehdr*>(bytes.data());
    const auto* sections = reinterpret_cast<const Elf64_Shdr*>(bytes.data() + header->e_shoff);
    const auto base = reinterpret_cast<std::uintptr_t>(self.dli_fbase);
    Object object;
    for (const auto& table : std::span(sections, header->e_shnum)) {
        if (table.sh_type != SHT_SYMTAB) continue;
        const char* names = bytes.data() + sections[table.sh_link].sh_offset;
        const auto* first = reinterpret_cast<const Elf64_Sym*>(bytes.data() + table.sh_offset);
        for (const auto& symbol : std::span(first, table.sh_size / sizeof(Elf64_Sym))) {
            const char* name = names + symbol.st_name;
            const std::uintptr_t address = base + symbol.st_value;
            const bool defined = symbol.st_shndx != SHN_UNDEF && symbol.st_shndx < SHN_LORESERVE;
            if (!defined) continue;
            const int type = ELF64_ST_TYPE(symbol.st_info);
            if (type == STT_FUNC) object.functions.emplace(address, name);
            if (type == STT_OBJECT && sections[symbol.st_shndx].sh_type == SHT_NOBITS &&
                is_local_static(name))
                object.shared_arrays.emplace_back(reinterpret_cast<std::byte*>(address),
                                                  symbol.st_size);
        }
        return object;
    }
    give_up("has no .symtab", self.dli_fname);
}

const Object& object() {
    static const Object* const read = new Object(read_object());
    return *read;
}

}  // namespace

const char* symbol_of(const void* function) {
    const auto found = object().functions.find(reinterpret_cast<std::uintptr_t>(function));
    if (found == object().functions.end()) give_up("a kernel without a symbol", "launch");
    return found->second.c_str();
}

const std::vector<std::span<std::byte>>& shared_arrays() {
    return object().shared_arrays;
}

}  // namespace cuda_host
