# Toolchain: libretentive_plugins.so for 64-bit Arm on an x86_64 machine, with Debian's cross compiler
# (g++-aarch64-linux-gnu) and the nvcc that is there.
#   CUDART_DIR   directory of an aarch64 libcudart_static.a of nvcc's version; scripts/cross_toolchain.sh fetches it
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CUDA_HOST_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)

list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES CUDART_DIR CMAKE_CUDA_COMPILER)
if(NOT EXISTS "${CUDART_DIR}/libcudart_static.a")
    message(FATAL_ERROR "CUDART_DIR is '${CUDART_DIR}', and holds no libcudart_static.a: scripts/cross_toolchain.sh "
                        "fetches NVIDIA's for aarch64 and says where it is.")
endif()
if(NOT CMAKE_CUDA_COMPILER)
    find_program(CMAKE_CUDA_COMPILER nvcc HINTS ENV CUDACXX ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
endif()
# With an Arm host compiler nvcc looks below targets/aarch64-linux, which a toolkit for x86_64 does not have. Its headers
# serve both.
execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --dryrun -x cu /dev/null ERROR_VARIABLE said OUTPUT_QUIET)
string(REGEX MATCH "#\\$ TOP=([^\n]+)" _ "${said}")
get_filename_component(toolkit "${CMAKE_MATCH_1}" ABSOLUTE)
set(CMAKE_CUDA_FLAGS_INIT "-I${toolkit}/include -isystem ${toolkit}/include/cccl -L${CUDART_DIR}")
set(CMAKE_SHARED_LINKER_FLAGS_INIT "-L${CUDART_DIR}")
set(CUDAToolkit_INCLUDE_DIR "${toolkit}/include" CACHE PATH "")
set(CUDA_CUDART "${CUDART_DIR}/libcudart_static.a" CACHE FILEPATH "")
set(CUDA_cudart_static_LIBRARY "${CUDART_DIR}/libcudart_static.a" CACHE FILEPATH "")
