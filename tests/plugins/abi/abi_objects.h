// What the two sides of abi_check share: objects of our declaration, and a record of the method that ran last.
#pragma once

#include <cstdint>

// Objects of our declaration, each to be looked at as NVIDIA's interface of the same name.
void* makeCore();
void* makeBuild();
void* makeRuntime();
void* makePlugin(bool* deleted);
void* makeCreator();

// Calls every method of NVIDIA's expression and expression builder through our declaration.
void callExpression(void const* expression);
void callBuilder(void* builder);

// The method that ran last; "" before a call.
extern char const* gReached;

template <typename T>
T reached(char const* method, T value) noexcept {
  gReached = method;
  return value;
}

// Reports unless `good` and the last call reached `method`.
void expectReached(char const* method, bool good);

// An address that nobody follows: a value to recognise an argument by.
template <typename T>
T* address(int64_t number) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(number));
}
